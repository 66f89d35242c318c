"""Scales are rounded to the dtype of a packed file before anything is encoded with them.

The rejected choice is rounding to nearest. Such a scale may fall short of range / codes; the largest values are then
clipped by up to 2^-11 of themselves, which is more than half a step from 12 bits on.  Rounded *upwards*, half a step
stays the bound of the error at every width, at the price of a step that is at most 0.1 % wider (more where fp16 is
subnormal).
"""

from __future__ import annotations

import torch

_LARGEST = torch.finfo(torch.float16).max


def round_up(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the least number of ``dtype`` that is not below ``x``, of either sign; beyond its range, its largest
    number.

    Args:
        x: fp32 or fp64.
        dtype: float32 (``x`` itself, whatever its dtype) or float16.

    Returns:
        The dtype of ``x``; with float16 exactly representable in it.
    """
    if dtype is torch.float32:
        return x
    half = x.clamp(-_LARGEST, _LARGEST).to(torch.float16)
    short = (half.to(x.dtype) < x) & (half < _LARGEST)
    # neighbors in fp16 are neighbors as integers: away from zero for positive numbers, towards it for negative ones
    step = torch.where(half >= 0, 1, -1).to(torch.int16)
    up = ((half + 0.0).view(torch.int16) + step).view(torch.float16)  # + 0.0 makes a zero positive
    return torch.where(short, up, half).to(x.dtype)
