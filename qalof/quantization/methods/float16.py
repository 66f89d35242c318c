"""Half precision as a quantizer of 16 bits: what a file of F16 tensors holds, fake-quantized.

A number is rounded to the nearest of fp16, and to its largest beyond.  Its code is the magnitude's bit pattern with the
number's sign: order is kept, 0 is 0, and 16 bits hold it.  The grid is a scale of 1, which packed files store
nevertheless; with granularity tensor, the default, once.  (``passthrough_bits: 16`` leaves 16 bits in fp32 instead,
which is what a model is *evaluated* with; this is what it is *stored* as.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from qalof.quantization.granularity import Granularity
from qalof.quantization.quantizer import Grid, Quantizer

_LARGEST = torch.finfo(torch.float16).max
_LARGEST_CODE = 0x7BFF


@dataclass(frozen=True, kw_only=True)
class Float16(Quantizer, method="float16"):
    """16 bits only."""

    granularity: Granularity = Granularity.TENSOR
    """How often the scale, which is always 1, is stored: ``tensor`` stores it once."""

    only_bits: ClassVar[int | None] = 16

    def code_range(self, bits: float) -> tuple[int, int]:
        """Those of -65504 and 65504."""
        return -_LARGEST_CODE, _LARGEST_CODE

    def _grid_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> Grid:
        return Grid(torch.ones_like(low))

    def _codes(self, x: torch.Tensor, grid: Grid, bits: float) -> torch.Tensor:
        half = x.clamp(-_LARGEST, _LARGEST).to(torch.float16)
        return half.abs().view(torch.int16).to(x.dtype) * half.to(x.dtype).sign()

    def _values(self, codes: torch.Tensor, grid: Grid, bits: float) -> torch.Tensor:
        magnitudes = codes.abs().to(torch.int16).view(torch.float16).to(codes.dtype)
        return magnitudes * codes.sign()
