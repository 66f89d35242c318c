"""Granularity: over which elements one scale is shared.

Weights are stored (out, in) and activations (..., tokens, features), so that both the per-channel scale of
a weight and the per-token scale of an activation reduce over the last dimension.  They keep their own names
because they mean different things to a reader and to a packed file.
"""

from __future__ import annotations

from enum import StrEnum

import torch


class Granularity(StrEnum):
    """Which elements share a scale."""

    TENSOR = "tensor"
    CHANNEL = "channel"
    TOKEN = "token"


def absolute_maximum(x: torch.Tensor, granularity: Granularity) -> torch.Tensor:
    """Largest absolute value of each group.

    Returns:
        (..., 1) for channel and token, () for tensor; same dtype as ``x``.
    """
    if granularity is Granularity.TENSOR:
        return x.abs().amax()
    return x.abs().amax(dim=-1, keepdim=True)
