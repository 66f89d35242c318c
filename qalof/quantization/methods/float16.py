"""Half precision as a quantizer of 16 bits, which fake-quantizes to what a file of F16 tensors stores.

A number is rounded to the nearest one of fp16; a number beyond its range becomes the largest one. The code is the bit
pattern of the magnitude with the sign of the number: the order is kept, 0 is 0, and the code fits into 16 bits. The
grid is a scale of 1, which packed files store nevertheless, once under granularity tensor, the default.
(``full_precision_bits: 16`` leaves 16 bits in fp32 instead. That is how a model is *evaluated*; this method is how it
is *stored*.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from qalof.quantization.granularity import Granularity
from qalof.quantization.quantizer import QParams, Quantizer

_LARGEST = torch.finfo(torch.float16).max
_LARGEST_CODE = 0x7BFF


@dataclass(frozen=True, kw_only=True)
class Float16(Quantizer, method="float16"):
    """This method has 16 bits only."""

    granularity: Granularity = Granularity.TENSOR
    """How often the scale, which is always 1, is stored: ``tensor`` stores it once."""

    only_bits: ClassVar[int | None] = 16

    def code_range(self, bits: float) -> tuple[int, int]:
        """Let the codes reach from that of -65504 to that of 65504."""
        return -_LARGEST_CODE, _LARGEST_CODE

    def _qparams_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> QParams:
        return QParams(torch.ones_like(low))

    def _codes(self, x: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        half = x.clamp(-_LARGEST, _LARGEST).to(torch.float16)
        return half.abs().view(torch.int16).to(x.dtype) * half.to(x.dtype).sign()

    def _values(self, codes: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        magnitudes = codes.abs().to(torch.int16).view(torch.float16).to(codes.dtype)
        return magnitudes * codes.sign()
