"""The 8-bit rounding of LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339) as the code of bitsandbytes 0.50 does it.

    m = max|fp16(x)| over a row,  q = rne(fp16(x) (127 / m)),  x^ = q m / 127

It differs from ``symmetric`` at 8 bits in the order of the operations and in half precision, to which the library casts
its inputs first: both change a code now and then. Weights use it per channel and activations per token, the latter with
``outlier_threshold: 6.0`` in their scheme, which keeps features with a large value in half precision.  A zero row, from
which the library makes 0 / 0, comes back as zeros; values beyond the range of half precision are clipped to 65,504.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from qalof.quantization.granularity import absolute_maximum
from qalof.quantization.quantizer import QParams, Quantizer

_HIGHEST = 127
_LARGEST_HALF = torch.finfo(torch.float16).max
_STEP = 7.874015718698502e-3
"""The constant 1 / 127 as the library writes it."""


@dataclass(frozen=True, kw_only=True)
class BnbInt8(Quantizer, method="bnb_int8"):
    """Codes are -127..127; ``qparams.scale`` is m, which fp16 represents exactly."""

    only_bits: ClassVar[int | None] = 8

    def code_range(self, bits: float) -> tuple[int, int]:
        """Let the codes reach from -127 to 127."""
        return -_HIGHEST, _HIGHEST

    def _grid_of(self, x: torch.Tensor, bits: float) -> QParams:
        return QParams(absolute_maximum(_half(x)))

    def _qparams_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> QParams:
        return QParams(_half(torch.maximum(high, -low)))

    def _codes(self, x: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        factor = _HIGHEST / torch.where(qparams.scale == 0, 1.0, qparams.scale)
        return (_half(x) * factor).round_().clamp_(-_HIGHEST, _HIGHEST)

    def _values(self, codes: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        return codes.mul_(qparams.scale).mul_(_STEP)


def _half(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-_LARGEST_HALF, _LARGEST_HALF).to(torch.float16).to(x.dtype)
