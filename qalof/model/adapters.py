"""LoRA adapters by name, kept in PEFT's layers and PEFT's files.

One adapter a width, named by the width (``"4"``), or one shared by all (``"shared"``, for cyclic
precision training).  Each is saved as a folder that plain PEFT opens: its adapter config names Conv1D's
orientation and lists the head under ``modules_to_save``, so that the folder alone makes a working model.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from qalof.errors import BadInputError

SHARED = "shared"
WEIGHTS_FILE = "adapter_model.safetensors"
_PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class AdapterSpec:
    """Rank, alpha (scaling is alpha/rank) and dropout of the branch of one adapter."""

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadInputError(f"an adapter's rank must be at least 1: got {self.rank}")


class AdapterPolicy(StrEnum):
    """Which adapter serves a width that has none of its own."""

    EXACT = "exact"
    NEAREST_HIGHER = "nearest_higher"
    NEAREST = "nearest"
    NONE = "none"


def adapter_for(bits: int, names: Sequence[str], policy: AdapterPolicy) -> str | None:
    """The adapter that serves weights of ``bits``, or None for no branch.

    ``nearest_higher`` takes the highest adapter where none is higher than ``bits`` (pass-through, say).

    Raises:
        BadInputError: ``exact`` and no adapter of this width.
    """
    if not names:
        return None
    if SHARED in names:
        return SHARED
    widths = sorted(int(name) for name in names)
    if bits in widths:
        return str(bits)
    if policy is AdapterPolicy.EXACT:
        raise BadInputError(
            f"policy exact needs an adapter for {bits} bits: there are {widths}; take nearest_higher or train it"
        )
    if policy is AdapterPolicy.NONE:
        return None
    if policy is AdapterPolicy.NEAREST:
        return str(min(widths, key=lambda width: (abs(width - bits), -width)))
    return str(min((width for width in widths if width > bits), default=widths[-1]))


def inject(model: PreTrainedModel, module_paths: Sequence[str], specs: Mapping[str, AdapterSpec]) -> None:
    """Wrap the linear layers at ``module_paths`` in PEFT's LoRA layers, one branch a spec, B = 0."""
    for name, spec in specs.items():
        config = _config(spec, module_paths)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of a second adapter, which is the point here
            inject_adapter_in_model(config, model, adapter_name=name)


def adapter_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The A (rank, in) and B (out, rank) factors of one adapter by their path without its name."""
    found = {}
    for path, parameter in model.named_parameters():
        for factor in ("lora_A", "lora_B"):
            middle = f".{factor}.{name}."
            if middle in path:
                found[path.replace(middle, f".{factor}.")] = parameter
    return found


def save_adapter(
    model: PreTrainedModel, name: str, spec: AdapterSpec, head: Mapping[str, nn.Parameter], folder: Path
) -> None:
    """Write one adapter, and the head with it, in PEFT's format.

    Args:
        model: with the adapter injected.
        name: the adapter's.
        spec: its rank and alpha, for ``adapter_config.json``.
        head: head parameters by path in the model; may be empty.
        folder: is made.
    """
    folder.mkdir(parents=True)
    parameters = adapter_parameters(model, name)
    targets = sorted({path.rsplit(".lora_", 1)[0] for path in parameters})
    config = _config(spec, targets)
    config.base_model_name_or_path = str(model.config.name_or_path)
    config.fan_in_fan_out = True  # of the Conv1D that plain GPT-2 has at these places
    config.modules_to_save = sorted({path.split(".")[0] for path in head}) or None
    config.inference_mode = True
    config.save_pretrained(str(folder))
    tensors = {_PEFT_PREFIX + path: p.detach().cpu().contiguous() for path, p in (parameters | dict(head)).items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def load_adapter(model: PreTrainedModel, name: str, head: Mapping[str, nn.Parameter], folder: Path) -> None:
    """Read what :func:`save_adapter` wrote into an injected adapter and the head.

    Raises:
        BadInputError: other tensors or shapes than this model has.
    """
    stored = load_file(folder / WEIGHTS_FILE)
    wanted = {_PEFT_PREFIX + path: p for path, p in (adapter_parameters(model, name) | dict(head)).items()}
    if set(stored) != set(wanted):
        odd = sorted(set(stored) ^ set(wanted))[0]
        raise BadInputError(f"adapter {folder} must hold exactly this model's tensors: {odd} is on one side only")
    with torch.no_grad():
        for path, parameter in wanted.items():
            if stored[path].shape != parameter.shape:
                shapes = f"{tuple(stored[path].shape)}, the model {tuple(parameter.shape)}"
                raise BadInputError(f"adapter {folder} must fit this model: {path} is {shapes}")
            parameter.copy_(stored[path])


def _config(spec: AdapterSpec, targets: Sequence[str]) -> LoraConfig:
    return LoraConfig(
        r=spec.rank, lora_alpha=spec.alpha, lora_dropout=spec.dropout, target_modules=list(targets), bias="none"
    )
