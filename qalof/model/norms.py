"""LayerNorms in training are frozen, shared by all widths, or copied once per width.

Low widths change the statistics of what a norm sees; slimmable and switchable networks keep one normalization per width
for that reason, and the CPT of S4 (docs/systems.md) trains the only one that it has (docs/methods/adapters.md, "Head
and norms"). A copy belongs to the adapter of the same name: it is trained, clipped and saved with it.

Neither the name of a norm nor the order of modules says to which site it belongs (Llama registers its norms after the
layers that they feed). It is found by running one token: a norm belongs to the site that runs next after it, and a norm
that no site follows belongs to the last site, which is the head where the head is a site.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import nn
from transformers import PreTrainedModel

from qalof.model.sites import base_of, find_norms
from qalof.site import Site


class NormMode(StrEnum):
    """How norms are trained.

    ``frozen`` norms stay as they are; ``shared`` ones are trained, one for all widths; ``per_width`` trains one copy
    per adapter, alongside the pretrained norm, which runs where no adapter does; ``frozen_copies`` are copies that stay
    as they are (the SP of S4, docs/systems.md).
    """

    FROZEN = "frozen"
    SHARED = "shared"
    PER_WIDTH = "per_width"
    FROZEN_COPIES = "frozen_copies"

    @property
    def copies(self) -> bool:
        """Whether every adapter has norms of its own."""
        return self in (NormMode.PER_WIDTH, NormMode.FROZEN_COPIES)


class SwitchableNorm(nn.Module):
    """A norm and its copies, of which one runs: ``active`` names it, and None is the pretrained one.

    Input and output are those of the norm: (..., features).
    """

    def __init__(self, norm: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.norm = norm
        self.copies = nn.ModuleDict({name: copy.deepcopy(norm) for name in names})
        self.active: str | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normalize with the active copy."""
        norm = self.norm if self.active is None else self.copies[self.active]
        normalized: torch.Tensor = norm(hidden)
        return normalized


@torch.no_grad()
def norm_sites(model: PreTrainedModel, sites: Sequence[Site]) -> dict[str, int]:
    """Return the index of the site that each norm of an unpatched ``model`` belongs to; see the module."""
    base = base_of(model)
    adapted = [index for index, site in enumerate(sites) if site.has_adapter]
    by_module = {id(base.get_submodule(sites[index].name)): index for index in adapted if not sites[index].is_head}
    norms = find_norms(model)
    by_norm = {id(module): name for name, module in norms.items()}
    owners = dict.fromkeys(norms, adapted[-1])
    waiting: list[str] = []

    def run(module: nn.Module, inputs: object) -> None:
        if id(module) in by_norm:
            waiting.append(by_norm[id(module)])
        else:
            owners.update(dict.fromkeys(waiting, by_module[id(module)]))
            waiting.clear()

    watched = [module for module in base.modules() if id(module) in by_norm or id(module) in by_module]
    handles = [module.register_forward_pre_hook(run) for module in watched]
    try:
        base(torch.zeros(1, 1, dtype=torch.int64, device=next(base.parameters()).device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return owners


def install_copies(model: PreTrainedModel, names: Sequence[str]) -> dict[str, SwitchableNorm]:
    """Replace every norm by a :class:`SwitchableNorm` with one copy per name; return them by path."""
    base = base_of(model)
    installed = {}
    for path, norm in find_norms(model).items():
        parent, _, leaf = path.rpartition(".")
        installed[path] = SwitchableNorm(norm, names)
        setattr(base.get_submodule(parent), leaf, installed[path])
    return installed


def trained_norms(model: PreTrainedModel, mode: NormMode, adapter: str | None = None) -> dict[str, nn.Parameter]:
    """Return the trained norm parameters by their path in the plain model, which has no copies.

    Args:
        model: the patched model.
        mode: how its norms are trained.
        adapter: the adapter that owns the copies; None for the norms that all widths share.
    """
    base = base_of(model)
    prefix = "" if base is model else f"{model.base_model_prefix}."
    if mode is NormMode.SHARED and adapter is None:
        modules = find_norms(model)
    elif mode is NormMode.PER_WIDTH and adapter is not None:
        switchable = ((path, m) for path, m in base.named_modules() if isinstance(m, SwitchableNorm))
        modules = {path: norm.copies[adapter] for path, norm in switchable}
    else:
        return {}
    return {f"{prefix}{path}.{name}": p for path, norm in modules.items() for name, p in norm.named_parameters()}
