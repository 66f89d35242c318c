"""The quantizers of a model that have state: static ranges and learned steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from qalof.model.layers.tensor_quantizer import TensorQuantizer

if TYPE_CHECKING:
    pass


STEPS = "steps"
"""The name of the group of trainable parameters that LSQ learns."""


def quantizers_of(model: nn.Module) -> Iterator[tuple[str, TensorQuantizer]]:
    """Yield the quantizers of ``model`` that have state, by path."""
    for path, module in model.named_modules():
        if isinstance(module, TensorQuantizer) and (module.steps is not None or module.ranges is not None):
            yield path, module


def learned_steps(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the learned steps of ``model`` by path; they must have no weight decay."""
    return {f"{path}.{name}": p for path, module in quantizers_of(model) for name, p in module.named_parameters()}
