"""Straight-through estimators: what gradient a rounding lets pass (algorithms.md 1.7).

Rounding is computed without a graph, then :func:`straight_through` joins it to its input with a *factor*: None for
the identity, else a tensor the gradient is multiplied by.  ``x + (rounded - x).detach()`` is not used, since that
sum rounds a second time in floating point and leaves the grid.

``identity``: CPT, InstantNet and DWQ's code; the default.  ``masked``: zero where |x| >= limit, as LLM-QAT's code
has it with a limit of 2.0 although its forward clips nothing; LayerNorm and GELU outputs beyond it would stop
learning, so it is there for parity only.  ``range``: zero outside a range that really clips (static ranges).
``tanh``: 1 - tanh(x)^2, of DoReFa.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import torch


class StraightThrough(StrEnum):
    """Which gradient passes a rounding."""

    IDENTITY = "identity"
    MASKED = "masked"
    RANGE = "range"
    TANH = "tanh"


def straight_through(x: torch.Tensor, rounded: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
    """``rounded`` with the gradient of ``factor * x``.

    Args:
        x: what was rounded.
        rounded: the shape of ``x``, computed without a graph.
        factor: broadcasts against ``x``; None for 1.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return rounded
    result: torch.Tensor = _StraightThrough.apply(x, rounded, factor)
    return result


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rounded: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(factor)
        return rounded.view_as(rounded)  # a new tensor object: an input that is returned would lose its own graph

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (factor,) = ctx.saved_tensors
        return grads[0] if factor is None else grads[0] * factor, None, None
