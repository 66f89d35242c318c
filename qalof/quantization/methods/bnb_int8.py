"""The eight bits of bitsandbytes' LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339; the library's code, 0.50).

    m = max|fp16(x)| over a row,  q = rne(fp16(x) (127 / m)),  x^ = q m / 127

It is ``symmetric`` at 8 bits but for the order of the operations and for half precision, which the library casts its
inputs to first: both move a code now and then.  Weights take it per channel and activations per token, there with
``outliers: 6.0`` in their scheme, which keeps features with a large value in half precision.  A zero row, from which
the library makes 0 / 0, comes back as zeros; values that half precision has no room for are cut off at 65,504.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from qalof.quantization.granularity import absolute_maximum
from qalof.quantization.quantizer import Grid, Quantizer

_HIGHEST = 127
_LARGEST_HALF = torch.finfo(torch.float16).max
_STEP = 7.874015718698502e-3
"""1 / 127 as the library writes it."""


@dataclass(frozen=True, kw_only=True)
class BnbInt8(Quantizer, method="bnb_int8"):
    """Codes -127..127; ``grid.scale`` is m, which fp16 holds exactly."""

    only_bits: ClassVar[int | None] = 8

    def code_range(self, bits: float) -> tuple[int, int]:
        """-127 and 127."""
        return -_HIGHEST, _HIGHEST

    def _grid_of(self, x: torch.Tensor, bits: float) -> Grid:
        return Grid(absolute_maximum(_half(x)))

    def _grid_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> Grid:
        return Grid(_half(torch.maximum(high, -low)))

    def _codes(self, x: torch.Tensor, grid: Grid, bits: float) -> torch.Tensor:
        factor = _HIGHEST / torch.where(grid.scale == 0, 1.0, grid.scale)
        return (_half(x) * factor).round_().clamp_(-_HIGHEST, _HIGHEST)

    def _values(self, codes: torch.Tensor, grid: Grid, bits: float) -> torch.Tensor:
        return codes.mul_(grid.scale).mul_(_STEP)


def _half(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-_LARGEST_HALF, _LARGEST_HALF).to(torch.float16).to(x.dtype)
