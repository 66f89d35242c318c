"""Straight-through estimators: which gradient passes a rounding (docs/methods/quantizers.md, "Gradients").

Rounding is computed without a graph, then :func:`straight_through` joins it to its input with a *factor*: None for the
identity, otherwise a tensor that the gradient is multiplied by.  ``x + (rounded - x).detach()`` is not used, since that
sum rounds a second time in floating point and leaves the grid.

``identity``, the default, passes everything, as the codes of CPT, InstantNet and Double-Win Quant do. ``masked`` passes
nothing where |x| >= limit, as LLM-QAT's code does with a limit of 2.0 although its forward clips nothing. LayerNorm and
GELU outputs beyond it would stop learning, so it exists for comparison only. ``range`` passes nothing outside a range
that really clips (static ranges). ``tanh`` multiplies by 1 - tanh(x)^2, as in DoReFa.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import torch


class StraightThrough(StrEnum):
    """The estimators: each says which gradient passes a rounding."""

    IDENTITY = "identity"
    MASKED = "masked"
    RANGE = "range"
    TANH = "tanh"


def straight_through(x: torch.Tensor, rounded: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
    """Return ``rounded`` with the gradient of ``factor * x``.

    Args:
        x: the tensor before rounding.
        rounded: the rounded tensor, in the shape of ``x``, computed without a graph.
        factor: a tensor that broadcasts against ``x``; None stands for 1.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return rounded
    result: torch.Tensor = _StraightThrough.apply(x, rounded, factor)
    return result


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rounded: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(factor)
        return rounded.view_as(rounded)  # a new tensor object: a returned input would lose its own graph

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (factor,) = ctx.saved_tensors
        return grads[0] if factor is None else grads[0] * factor, None, None
