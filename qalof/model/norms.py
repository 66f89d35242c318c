"""LayerNorms in training: left alone, shared by all widths, or one copy a width.

Low widths change the statistics of what a norm sees; slimmable and switchable networks keep one normalisation a
width for that reason, and S4's CPT trains the one that it has (algorithms.md 2 and 8).  A copy belongs to the
adapter of the same name: it is trained, clipped and saved with it.

Which site a norm belongs to is not in its name, nor in the order of modules (Llama registers its norms after the
layers they feed).  It is found by running one token: a norm goes with the site that runs next after it, and one that
no site follows with the last one, which is the head where the head is a site.
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
    """``frozen``; ``shared``: trained, one for all widths; ``per_width``: a trained copy an adapter, beside the
    pretrained one, which runs where no adapter does; ``frozen_copies``: copies that stay as they are (S4's SP).
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
    """A norm and its copies, of which one runs: ``active`` by name, the pretrained one for None.

    Input and output are those of the norm: (..., features).
    """

    def __init__(self, norm: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.norm = norm
        self.copies = nn.ModuleDict({name: copy.deepcopy(norm) for name in names})
        self.active: str | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normalise with the active copy."""
        norm = self.norm if self.active is None else self.copies[self.active]
        normalised: torch.Tensor = norm(hidden)
        return normalised


@torch.no_grad()
def norm_sites(model: PreTrainedModel, sites: Sequence[Site]) -> dict[str, int]:
    """The index of the site that each norm of an unpatched ``model`` belongs to; see the module."""
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
    """Put a :class:`SwitchableNorm` with a copy for each name in the place of every norm; by path."""
    base = base_of(model)
    installed = {}
    for path, norm in find_norms(model).items():
        parent, _, leaf = path.rpartition(".")
        installed[path] = SwitchableNorm(norm, names)
        setattr(base.get_submodule(parent), leaf, installed[path])
    return installed


def trained_norms(model: PreTrainedModel, mode: NormMode, adapter: str | None = None) -> dict[str, nn.Parameter]:
    """Trained norm parameters by their path in the plain model, which has no copies.

    Args:
        model: patched.
        mode: how its norms are trained.
        adapter: whose copies; None for the norms that all widths share.
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
