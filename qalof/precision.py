"""The precision of arithmetic: float32 at least, and float64 where the caller computes in float64.

Half-precision inputs are widened before anything is rounded or summed.  float64 is never narrowed, for two reasons.
Another processor adds in another order, and a rounding step turns a last-bit difference into a whole level; in float64
such differences are about 1e-16, so a model in float64 gives one result on every machine. And a user who chooses
float64 wants to see the effect of rounding in float32.
"""

from __future__ import annotations

import torch


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` in float32, or as it is in float64; any shape, on the same device, differentiable.

    Integers and booleans become float32.
    """
    return tensor if tensor.dtype is torch.float64 else tensor.to(torch.float32)


def all_finite(tensor: torch.Tensor) -> bool:
    """Return whether ``tensor``, of any shape, holds neither NaN nor infinity; an empty one holds neither.

    The extremes tell: NaN is among them if it is anywhere. This is one pass without a copy, where ``torch.isfinite``
    takes several passes and copies, and seconds for the weights of a model of 135 M parameters.
    """
    if not tensor.numel():
        return True
    lowest, highest = torch.aminmax(tensor.detach())
    return bool(torch.isfinite(lowest) & torch.isfinite(highest))
