"""GGUF's block formats as quantizers: a model can be trained with exactly the numbers that llama.cpp stores.

``gguf`` has 8 bits (Q8_0), 5 (Q5_0) and 4 (Q4_0); ``gguf_affine`` has 5 (Q5_1) and 4 (Q4_1).  A block is 32
consecutive weights of a row:

==========  ==============  ===================================  ====================
type        d               q                                    value
==========  ==============  ===================================  ====================
Q8_0        max|x| / 127    roundf(x (1 / d))                    q fp16(d)
Q5_0, Q4_0  m / -2^(b-1)    trunc(x (1 / d) + 2^(b-1) + 1/2)     (q - 2^(b-1)) fp16(d)
Q5_1, Q4_1  (max - min) / n  trunc((x - min) (1 / d) + 1/2)      q fp16(d) + fp16(min)
==========  ==============  ===================================  ====================

m is the first element of the largest magnitude, with its sign, so it takes the lowest code and d may be negative; n =
2^b - 1; roundf sends halves away from zero; codes are clamped to b bits.  *Codes come from d in fp32 (in fp64 for a
tensor in fp64), values from d in fp16*, and fp16 rounds to nearest: the reference (ggml-quants.c, and the ``gguf``
package, against which :mod:`qalof.export.gguf_blocks` is tested bit for bit) does so, and Q8_0 may be off by 0.56 of a
step at the ends.

A grid holds fp16(d), which is all that a file keeps.  A block whose own d has that form is coded with its own d, as the
reference does. With any other grid (an observer's), and with one grid for a whole tensor, codes come from the grid's
scale; otherwise they would depend on the rest of the batch. Codes of ``gguf`` are kept signed here, q -
2^(b-1). Where 1 / d is beyond fp32 the reference is undefined; the codes are here those of 0, and fp16(d) is 0 anyway.
A scale beyond fp16 becomes its largest number here, and is refused by a file.

Other granularities than groups of 32, and fp32 scales, work as everywhere, but are no format of GGUF's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from qalof.errors import BadInputError
from qalof.quantization.granularity import Granularity, absolute_maximum
from qalof.quantization.options import GroupSize
from qalof.quantization.quantizer import QParams, Quantizer

BLOCK = 32
_LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True, kw_only=True)
class _Blocks(Quantizer):
    """What both methods have in common."""

    granularity: Granularity = Granularity.GROUP
    """The blocks of the file format, which are groups."""
    group_size: GroupSize | None = BLOCK
    """The block size of the file format."""
    scale_dtype: Literal["float32", "float16"] = "float16"
    """The type of the file format's scales."""

    widths: ClassVar[tuple[int, ...]] = ()
    """The bit-widths that the format has."""

    def check_bits(self, bits: float) -> None:
        """Refuse a width that GGUF has no block format for, as every quantizer refuses widths that it lacks."""
        super().check_bits(bits)
        if bits not in self.widths:
            raise BadInputError(f"quantizer {self.method} has {', '.join(map(str, self.widths))} bits: got {bits}")

    @property
    def _coded_alone(self) -> bool:
        """Whether each group is a block that is coded by itself, instead of all numbers of a batch at once."""
        return self.granularity is not Granularity.TENSOR

    def _stored(self, scale: torch.Tensor) -> torch.Tensor:
        """Round a scale to the nearest fp16, as the format does; other methods round up."""
        if self.stored_dtype is torch.float32:
            return scale
        return scale.clamp(-_LARGEST, _LARGEST).to(torch.float16).to(scale.dtype)


@dataclass(frozen=True, kw_only=True)
class Gguf(_Blocks, method="gguf"):
    """The formats are Q8_0, Q5_0 and Q4_0, by width."""

    widths: ClassVar[tuple[int, ...]] = (4, 5, 8)

    def code_range(self, bits: float) -> tuple[int, int]:
        """Let the codes reach from -127 to 127 at 8 bits; lower widths use all 2^b codes."""
        half = 2 ** (int(bits) - 1)
        return (-127, 127) if bits == 8 else (-half, half - 1)

    def _grid_of(self, x: torch.Tensor, bits: float) -> QParams:
        return QParams(self._stored(_own_scale(x, bits)))

    def _qparams_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> QParams:
        extreme = torch.where(-low >= high, low, high)
        return QParams(self._stored(extreme.abs() / 127 if bits == 8 else extreme / -(2 ** (int(bits) - 1))))

    def _codes(self, x: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        scale = qparams.scale
        if self._coded_alone:
            own = _own_scale(x, bits)
            scale = torch.where(self._stored(own) == scale, own, scale)
        products = x * _inverse(scale)
        lowest, highest = self.code_range(bits)
        if bits != 8:
            return (products + (0.5 - lowest)).trunc_().clamp_(0, highest - lowest).add_(lowest)
        magnitudes = products.abs()
        floors = magnitudes.floor()
        rounded = floors.add_((magnitudes.sub_(floors) * 2).floor_()).clamp_(max=highest)
        return rounded.mul_(products.sign()).add_(0.0)  # adding 0 turns -0 into +0, as an integer is

    def _values(self, codes: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        return codes.mul_(qparams.scale)


@dataclass(frozen=True, kw_only=True)
class GgufAffine(_Blocks, method="gguf_affine"):
    """The formats are Q5_1 and Q4_1, by width; ``qparams.zero_point`` is the minimum."""

    widths: ClassVar[tuple[int, ...]] = (4, 5)
    has_zero_point: ClassVar[bool] = True

    def code_range(self, bits: float) -> tuple[int, int]:
        """Let the codes reach from 0 to 2^b - 1."""
        return 0, 2 ** int(bits) - 1

    def _qparams_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> QParams:
        return QParams(self._stored((high - low) / self.code_range(bits)[1]), self._stored(low))

    def _codes(self, x: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        assert qparams.zero_point is not None
        highest, scale, zero_point = self.code_range(bits)[1], qparams.scale, qparams.zero_point
        if self._coded_alone:
            low, high = x.amin(dim=-1, keepdim=True), x.amax(dim=-1, keepdim=True)
            own = (high - low) / highest
            mine = (self._stored(own) == scale) & (self._stored(low) == zero_point)
            scale, zero_point = torch.where(mine, own, scale), torch.where(mine, low, zero_point)
        return (x - zero_point).mul_(_inverse(scale)).add_(0.5).trunc_().clamp_(0, highest)

    def _values(self, codes: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        assert qparams.zero_point is not None
        return codes.mul_(qparams.scale).add_(qparams.zero_point)


def _own_scale(x: torch.Tensor, bits: float) -> torch.Tensor:
    """Return d of groups (..., group) before it is rounded: (..., 1)."""
    largest = absolute_maximum(x)
    if bits == 8:
        return largest / 127
    places = torch.arange(x.shape[-1], device=x.device).expand_as(x)
    # torch does not say which of equal elements argmax returns; the format takes the first one
    first = torch.where(x.abs() == largest, places, x.shape[-1] - 1).amin(dim=-1, keepdim=True)
    divisor = -(2.0 ** (int(bits) - 1))
    return x.gather(-1, first) / divisor


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    inverse = 1 / scale
    return torch.where(torch.isfinite(inverse), inverse, torch.zeros_like(inverse))
