"""Patching puts the switches into a plain transformers model.

Each site becomes a :class:`SwitchableLinear` inside PEFT's LoRA layer; norms get their copies, a tied head gets its
weight, and the projections that fill the KV cache get a hook that rounds their output. The model is changed in place,
once; switching afterwards only writes attributes (:class:`SwitchableSite`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from qalof.layer_bits import LayerBits
from qalof.model import adapters as lora
from qalof.model.adapter_inits import takes_from_weight
from qalof.model.adapters import AdapterSpec
from qalof.model.initialization import compensate, decompose
from qalof.model.layers.kv_cache import quantize_kv
from qalof.model.layers.lora_linear import SwitchableLora
from qalof.model.layers.switchable_embedding import SwitchableEmbedding, TiedHead, TiedViewLinear
from qalof.model.layers.switchable_linear import SwitchableLinear
from qalof.model.norms import SwitchableNorm, install_copies, norm_sites
from qalof.model.settings import TIED, SwitchSettings
from qalof.model.sites import is_tied, site_path
from qalof.rng import make_dropout_portable
from qalof.site import HeadMode, Site


@dataclass
class SwitchableSite:
    """The modules of one site that switching writes to.

    ``linear`` takes the bits of the layer; ``lora`` takes the active adapter and is None in a model without adapters;
    ``norms`` are the norms that belong to this site.
    """

    site: Site
    linear: SwitchableLinear
    lora: SwitchableLora | None
    norms: list[SwitchableNorm] = field(default_factory=list)

    @property
    def state(self) -> tuple[LayerBits, str | None]:
        """Return bits and active adapter."""
        return self.linear.bits, self.lora.active if self.lora else None

    def set(self, bits: LayerBits, adapter: str | None) -> None:
        """Run at ``bits`` with ``adapter`` from now on; None runs no branch."""
        self.linear.__dict__["bits"] = bits  # without nn.Module's __setattr__, as in SwitchableLora.activate
        self.use(adapter)

    def use(self, adapter: str | None) -> None:
        """Run ``adapter`` at the present width."""
        if self.lora is not None:
            self.lora.activate(adapter)
        for norm in self.norms:
            norm.active = adapter

    def quantize_kv(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Round keys and values as they leave the outer layer, as its forward hook."""
        return quantize_kv(output, self.site.kv, self.linear.bits.kv, self.linear.kv_quantizers)

    def look_up(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Look tokens up in the rounded weight of the head, as the forward hook of a tied embedding."""
        weight = self.linear.rounded_weight(self.linear.bits.weight_width)
        return functional.embedding(inputs[0], weight, getattr(module, "padding_idx", None))


def patch(
    model: PreTrainedModel, sites: Sequence[Site], specs: Mapping[str, AdapterSpec], settings: SwitchSettings
) -> list[SwitchableSite]:
    """Change ``model`` in place and return one switch per site, in order. Branches are drawn from torch's generator."""
    owners = norm_sites(model, sites) if settings.norms.copies else {}
    linears = {site.name: _switchable(model, site, settings) for site in sites}
    lora.inject(model, [site_path(model, site) for site in sites if site.has_adapter], specs)
    switches = []
    for site in sites:
        outer = model.get_submodule(site_path(model, site))
        layer = outer if isinstance(outer, SwitchableLora) else None
        if layer is not None:
            layer.merge_by(settings.merge, settings.lora_input)
        switch = SwitchableSite(site, linears[site.name], layer)
        if site.kv is not None:
            outer.register_forward_hook(switch.quantize_kv)
        if site.is_head and settings.head_mode is HeadMode.TIED_BOTH:
            model.get_input_embeddings().register_forward_hook(switch.look_up)
        switches.append(switch)
    make_dropout_portable(model)
    if settings.norms.copies:
        for path, norm in install_copies(model, list(specs)).items():
            switches[owners[path]].norms.append(norm)
    return switches


def initialize(switches: Sequence[SwitchableSite], specs: Mapping[str, AdapterSpec]) -> None:
    """Give freshly patched branches the inits that decompose a weight; the drawn ones stay.

    Raises:
        BadInputError: A site is too small for the rank.
    """
    for switch in switches:
        if switch.lora is None:
            continue
        for name, spec in specs.items():
            if takes_from_weight(spec.init):
                start = switch.lora.start or decompose(switch.linear.weight, spec.rank, spec.scaling, spec.init)
                _begin(switch.lora, name, start)
                lora.take_out(switch.lora, start, spec.scaling)
            elif spec.init == "loftq":
                _compensate(switch, name, spec)


def _compensate(switch: SwitchableSite, name: str, spec: AdapterSpec) -> None:
    linear, bits = switch.linear, int(name)
    factors = compensate(linear.weight, spec.rank, spec.scaling, lambda weight: linear.quantize_weight(weight, bits))
    if factors is not None and switch.lora is not None:
        _begin(switch.lora, name, factors)


@torch.no_grad()
def _begin(layer: SwitchableLora, name: str, factors: tuple[torch.Tensor, torch.Tensor]) -> None:
    for parameter, start in zip(layer.factors(name)[:2], factors, strict=True):
        parameter.copy_(start)


def _switchable(model: PreTrainedModel, site: Site, settings: SwitchSettings) -> SwitchableLinear:
    path = site_path(model, site)
    parent, _, leaf = path.rpartition(".")
    layer = model.get_submodule(path)
    if site.is_embedding:
        return _switchable_embedding(model, site)
    assert isinstance(layer, nn.Linear | Conv1D)
    table = model.get_input_embeddings()
    linear = SwitchableLinear.of(layer, site.name, site.quantization, site.kv)
    if site.is_head and settings.head_mode in TIED:
        if isinstance(table, SwitchableEmbedding):
            linear = TiedViewLinear.of(layer, site.name, site.quantization, site.kv)
            linear.follow(table)
        linear.weight = layer.weight  # this is the embedding's own parameter, so both move and change together
    elif site.is_head and is_tied(model):
        linear.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False
    setattr(model.get_submodule(parent), leaf, linear)
    return linear


def _switchable_embedding(model: PreTrainedModel, site: Site) -> SwitchableEmbedding:
    """Put a switchable embedding into ``model``, and a head after it if one is tied to it."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    embedding = SwitchableEmbedding.of_table(table, site.name, site.quantization)
    if isinstance(head, nn.Linear) and is_tied(model):
        path = next(name for name, module in model.named_modules() if module is head)
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, TiedHead(head, embedding))
    parent, _, leaf = site_path(model, site).rpartition(".")
    setattr(model.get_submodule(parent), leaf, embedding)
    return embedding
