"""Symmetric MinMax quantization, as pure functions (algorithms.md 1.1; LLM-QAT, arXiv 2305.17888).

    Q = 2^(b-1) - 1,  s = max|x| / Q  (1 where the group is zero),  q = clamp(rne(x / s), -Q, Q),  x^ = q s

The narrow range [-Q, Q] makes the quantizer odd: fq(-x) = -fq(x) exactly.  The full-range convention of some
runtimes (a divisor of 2^b - 1) is another format; the two must never be mixed, which is why a checkpoint
names its convention.  Everything is computed in fp32 and cast back: bf16 holds no codes beyond 8 bits.

``fake_quantize`` is ``decode(encode(x))`` bit for bit, with the straight-through gradient (identity), scales
detached.  It is a ``torch.autograd.Function`` because ``x + (fq(x) - x).detach()`` would round twice.
"""

from __future__ import annotations

from typing import Any

import torch

from qalof.bitmap import PASS_THROUGH, check_width
from qalof.errors import BadInputError
from qalof.quantization.granularity import Granularity, absolute_maximum

CONVENTION = "symmetric-minmax-narrow"


def largest_code(bits: int) -> int:
    """Q = 2^(bits-1) - 1."""
    return int(2 ** (bits - 1)) - 1


def encode(x: torch.Tensor, bits: int, granularity: Granularity) -> tuple[torch.Tensor, torch.Tensor]:
    """Integer codes and scales of ``x``.

    Returns:
        codes: int16, the shape of ``x``, within [-Q, Q]; scale: fp32, (..., 1) or ().

    Raises:
        BadInputError: an illegal width, or pass-through, which has no codes.
    """
    if check_width(bits) == PASS_THROUGH:
        raise BadInputError("pass-through has no codes to encode: got 32 bits; 2 to 16 have")
    codes, scale = _codes(x, bits, granularity)
    return codes.to(torch.int16), scale


def decode(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """codes * scale, in fp32."""
    return codes.to(torch.float32) * scale


def fake_quantize(x: torch.Tensor, bits: int, granularity: Granularity) -> torch.Tensor:
    """Round ``x`` to the grid of ``bits``; same shape and dtype, gradient passes straight through.

    At 32 bits the input tensor itself comes back.
    """
    if bits == PASS_THROUGH:
        return x
    result: torch.Tensor = _FakeQuantize.apply(x, bits, granularity)
    return result


def _codes(x: torch.Tensor, bits: int, granularity: Granularity) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.to(torch.float32)
    limit = largest_code(bits)
    scale = absolute_maximum(x, granularity) / limit
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (x / scale).round_().clamp_(-limit, limit), scale


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bits: int, granularity: Granularity) -> torch.Tensor:
        codes, scale = _codes(x, bits, granularity)
        return codes.mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return grads[0], None, None
