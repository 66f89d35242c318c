"""LoRA adapters by name, stored in PEFT's layers.

There is one adapter per width, named by the width (``"4"``), or one that all widths share (``"shared"``, for cyclic
precision training).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import PreTrainedModel

from qalof.model.adapter_inits import DRAWN
from qalof.model.adapter_spec import REFERENCE_SPECS, SHARED, AdapterPolicy, AdapterSpec, adapter_for
from qalof.model.initialization import Factors
from qalof.model.layers.lora_linear import SwitchableLora
from qalof.model.layers.switchable_linear import SwitchableLinear


def inject(model: PreTrainedModel, module_paths: Sequence[str], specs: Mapping[str, AdapterSpec]) -> None:
    """Wrap the switchable layers at ``module_paths`` in :class:`SwitchableLora`, with one branch per spec.

    Factors are drawn here; inits that decompose a weight follow in :mod:`qalof.model.patch`.
    """
    for name, spec in specs.items():
        config = peft_config(spec, module_paths)
        config._register_custom_module({SwitchableLinear: SwitchableLora})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of a second adapter and of tied heads; both are intended here
            inject_adapter_in_model(config, model, adapter_name=name)
        for parameter in adapter_parameters(model, name).values():
            parameter.requires_grad_(True)


def adapter_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """Return the factors A (rank, in) and B (out, rank) of one adapter, by their path without its name."""
    found = {}
    for path, parameter in model.named_parameters():
        for factor in ("lora_A", "lora_B"):
            middle = f".{factor}.{name}."
            if middle in path:
                found[path.replace(middle, f".{factor}.")] = parameter
    return found


@torch.no_grad()
def take_out(layer: SwitchableLora, start: Factors, scaling: float) -> None:
    """Subtract an adapter's start from the weight that all adapters stand on, and remember it."""
    weight = layer.base_layer.weight
    a, b = (factor.to(weight.device, weight.dtype) for factor in start)
    if layer.start is not None:
        if torch.equal(layer.start[0], a) and torch.equal(layer.start[1], b):
            return
        weight.add_(scaling * layer.start[1] @ layer.start[0])  # another machine may give other last bits
    weight.sub_(scaling * b @ a)
    layer.start = (a, b)


def adapter_layers(model: nn.Module, name: str) -> dict[str, SwitchableLora]:
    """Return the layers of ``model`` that have a branch of the adapter ``name``, by path."""
    return {p: m for p, m in model.named_modules() if isinstance(m, SwitchableLora) and name in m.lora_A}


def peft_config(spec: AdapterSpec, targets: Sequence[str]) -> LoraConfig:
    """Return PEFT's config of an adapter at the modules ``targets``."""
    return LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        use_rslora=spec.rslora,
        init_lora_weights=DRAWN.get(spec.init, True),
        target_modules=list(targets),
        bias="none",
    )


__all__ = [
    "REFERENCE_SPECS",
    "SHARED",
    "AdapterPolicy",
    "AdapterSpec",
    "adapter_for",
    "adapter_layers",
    "adapter_parameters",
    "inject",
    "peft_config",
    "take_out",
]
