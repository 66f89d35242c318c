"""The bytes of GGUF's block formats, whose arithmetic is that of :mod:`qalof.quantization.methods.gguf`.

A block of 32 weights is, little-endian: fp16(d); in Q4_1 and Q5_1 fp16(min); in Q5_0 and Q5_1 the fifth bits, element j
in bit j of 32; then the codes: int8 in Q8_0, otherwise byte j holds element j below element j + 16, four bits each.

=====  =====  ===============
type   bytes  bits per weight
=====  =====  ===============
Q8_0   34     8.5
Q5_1   24     6
Q5_0   22     5.5
Q4_1   20     5
Q4_0   18     4.5
=====  =====  ===============

The bytes are tested against the ``gguf`` package, bit for bit.
"""

from __future__ import annotations

from enum import StrEnum

import torch

from qalof.errors import BadInputError
from qalof.quantization.methods.gguf import BLOCK, Gguf, GgufAffine
from qalof.quantization.quantizer import QParams, QuantizedTensor, Quantizer

_HALF = BLOCK // 2
_SCALE_BYTES = 2
_HIGH_BYTES = 4


class BlockType(StrEnum):
    """A block format."""

    Q8_0 = "Q8_0"
    Q5_1 = "Q5_1"
    Q5_0 = "Q5_0"
    Q4_1 = "Q4_1"
    Q4_0 = "Q4_0"

    @property
    def bits(self) -> int:
        """The bits of a code."""
        return int(self.value[1])

    @property
    def quantizer(self) -> Quantizer:
        """The quantizer that computes its values."""
        return GgufAffine() if self.affine else Gguf()

    @property
    def affine(self) -> bool:
        """Whether a block has a minimum."""
        return self.value.endswith("1")

    @property
    def block_bytes(self) -> int:
        """The bytes of 32 weights."""
        return _SCALE_BYTES * (1 + self.affine) + BLOCK * self.bits // 8

    @property
    def bits_per_weight(self) -> float:
        """Scales included."""
        return self.block_bytes * 8 / BLOCK


def block_type(quantizer: Quantizer, bits: float) -> BlockType | None:
    """Return the format that stores exactly the values of ``quantizer`` at ``bits``; None where there is none."""
    for kind in BlockType:
        own = kind.quantizer
        same = (quantizer.method, quantizer.granularity, quantizer.group_size, quantizer.scale_dtype)
        if kind.bits == bits and same == (own.method, own.granularity, own.group_size, own.scale_dtype):
            return kind
    return None


def quantize(x: torch.Tensor, kind: BlockType) -> torch.Tensor:
    """Return the blocks of ``x`` (..., columns), any floating dtype -> uint8 (..., columns / 32 * block_bytes).

    Raises:
        BadInputError: The columns are not a multiple of 32, ``x`` contains NaN or infinity, or a scale is beyond fp16.
    """
    if x.dim() == 0 or x.shape[-1] % BLOCK:
        raise BadInputError(f"rows of {kind} have a multiple of {BLOCK} columns: got {tuple(x.shape)}; take F16 there")
    wide = x.detach().to(torch.float32)
    if not torch.isfinite(wide).all():
        raise BadInputError(f"a tensor must be finite to become {kind}: it holds NaN or infinity")
    _check_range(wide, kind)
    quantized = kind.quantizer.quantize(wide, kind.bits)
    parts = [part.to(torch.float16).reshape(-1, 1).view(torch.uint8) for part in quantized.qparams if part is not None]
    codes = quantized.codes.reshape(-1, BLOCK)
    if kind is BlockType.Q8_0:
        parts.append(codes.to(torch.int8).view(torch.uint8))
    else:
        unsigned = codes - kind.quantizer.code_range(kind.bits)[0]
        parts += [*([_high_bits(unsigned)] if kind.bits == 5 else []), _nibbles(unsigned)]
    return torch.cat(parts, dim=-1).view(*x.shape[:-1], -1)


def dequantize(data: torch.Tensor, kind: BlockType) -> torch.Tensor:
    """Return the values of :func:`quantize`'s bytes: (..., bytes) -> (..., columns), fp32.

    Raises:
        BadInputError: The bytes are not whole blocks.
    """
    if data.dtype is not torch.uint8 or data.dim() == 0 or data.shape[-1] % kind.block_bytes:
        raise BadInputError(
            f"{kind} comes in uint8 blocks of {kind.block_bytes} bytes: got {data.dtype} {tuple(data.shape)}"
        )
    blocks = data.reshape(-1, kind.block_bytes)
    floats = _SCALE_BYTES * (1 + kind.affine)
    qparams = blocks[:, :floats].contiguous().view(torch.float16).to(torch.float32)
    stored = blocks[:, floats:]
    if kind is BlockType.Q8_0:
        codes = stored.contiguous().view(torch.int8).to(torch.int16)
    else:
        nibbles = stored[:, -_HALF:].to(torch.int16)
        codes = torch.cat([nibbles & 15, nibbles >> 4], dim=-1)
        if kind.bits == 5:
            codes |= _from_high_bits(stored[:, :_HIGH_BYTES])
        codes += kind.quantizer.code_range(kind.bits)[0]
    # every block is a row of one group
    part = QParams(qparams[:, :1], qparams[:, 1:] if kind.affine else None)
    values = kind.quantizer.dequantize(QuantizedTensor(codes, part, kind.bits))
    return values.view(*data.shape[:-1], data.shape[-1] // kind.block_bytes * BLOCK)


def fake_quantize(x: torch.Tensor, kind: BlockType) -> torch.Tensor:
    """Return ``x`` (..., columns) as its blocks store it, in its dtype.

    Raises:
        BadInputError: See :func:`quantize`.
    """
    return dequantize(quantize(x, kind), kind).to(x.dtype)


def _check_range(x: torch.Tensor, kind: BlockType) -> None:
    low, high = (float(end) for end in torch.aminmax(x)) if x.numel() else (0.0, 0.0)
    largest = max(-low, high)
    needed = max((high - low) / (2**kind.bits - 1), largest) if kind.affine else largest / (2 ** (kind.bits - 1) - 1)
    # the check of each block is needed only in this case
    if needed <= torch.finfo(torch.float16).max:
        return
    qparams = _unrounded(x.reshape(-1, BLOCK), kind)
    if not torch.isfinite(qparams.to(torch.float16)).all():
        raise BadInputError(
            f"scales of {kind} are fp16, up to 65504: a weight of {largest:g} needs more; take F32 there"
        )


def _unrounded(blocks: torch.Tensor, kind: BlockType) -> torch.Tensor:
    low, high = blocks.amin(dim=-1), blocks.amax(dim=-1)
    if kind.affine:
        return torch.stack([(high - low) / (2**kind.bits - 1), low])
    return torch.maximum(-low, high) / (127 if kind is BlockType.Q8_0 else 2 ** (kind.bits - 1))


def _nibbles(codes: torch.Tensor) -> torch.Tensor:
    low = (codes & 15).to(torch.uint8)
    return low[:, :_HALF] | (low[:, _HALF:] << 4)


def _high_bits(codes: torch.Tensor) -> torch.Tensor:
    bits = (codes >> 4).view(-1, _HIGH_BYTES, 8) << torch.arange(8, device=codes.device, dtype=torch.int16)
    return bits.sum(dim=-1).to(torch.uint8)


def _from_high_bits(data: torch.Tensor) -> torch.Tensor:
    shifts = torch.arange(8, device=data.device, dtype=torch.int16)
    return (((data.to(torch.int16).unsqueeze(-1) >> shifts) & 1) << 4).flatten(1)
