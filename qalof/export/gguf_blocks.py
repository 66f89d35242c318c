"""GGUF's block formats Q8_0 and Q4_0 as quantizers: exact stand-ins for what llama.cpp stores (algorithms.md 1.9).

A block is 32 consecutive weights of a row, and begins with its scale d as little-endian fp16:

=====  =============  =====================================  =============================  =====
type   d              q                                      value                          bytes
=====  =============  =====================================  =============================  =====
Q8_0   max|x| / 127   roundf(x (1 / d)), int8                q fp16(d)                      34
Q4_0   m / -8         min(15, trunc(x (1 / d) + 8.5)), u4    (q - 8) fp16(d)                18
=====  =============  =====================================  =============================  =====

m is the first element of the largest magnitude, with its sign, so that it takes code 0.  roundf sends halves away
from zero.  Codes come from d in fp32, values from d in fp16; the reference (ggml-quants.c, and the ``gguf`` package,
against which this is tested bit for bit) does the same, so that Q8_0 may be off by 0.56 of a step at the ends.
Nibbles: byte j of Q4_0 holds element j below element j + 16.

Where 1 / d is beyond fp32 the reference is undefined; the codes are here those of 0, and fp16(d) is 0 anyway.
"""

from __future__ import annotations

from enum import StrEnum

import torch

from qalof.errors import BadInputError

BLOCK = 32
_HALF = BLOCK // 2
_SCALE_BYTES = 2


class BlockType(StrEnum):
    """A block format; ``block_bytes`` is what 32 weights take."""

    Q8_0 = "Q8_0"
    Q4_0 = "Q4_0"

    @property
    def block_bytes(self) -> int:
        """Scale and codes together."""
        return _SCALE_BYTES + (BLOCK if self is BlockType.Q8_0 else _HALF)

    @property
    def bits_per_weight(self) -> float:
        """8.5 and 4.5."""
        return self.block_bytes * 8 / BLOCK


def encode(x: torch.Tensor, kind: BlockType) -> torch.Tensor:
    """Blocks of ``x`` (..., columns), any floating dtype -> uint8 (..., columns / 32 * block_bytes).

    Raises:
        BadInputError: columns that are no multiple of 32, NaN or infinity, or a scale beyond fp16.
    """
    if x.dim() == 0 or x.shape[-1] % BLOCK:
        raise BadInputError(f"rows of {kind} have a multiple of {BLOCK} columns: got {tuple(x.shape)}; take F16 there")
    wide = x.detach().to(torch.float32)
    if not torch.isfinite(wide).all():
        raise BadInputError(f"a tensor must be finite to become {kind}: it holds NaN or infinity")
    blocks = wide.reshape(-1, BLOCK)
    scale = _scale(blocks, kind)
    stored = scale.to(torch.float16)
    if not torch.isfinite(stored).all():
        largest = float(blocks.abs().max())
        raise BadInputError(
            f"scales of {kind} are fp16, up to 65504: a weight of {largest:g} needs more; take F32 there"
        )
    inverse = 1 / scale
    products = blocks * torch.where(torch.isfinite(inverse), inverse, torch.zeros_like(inverse))
    codes = _bytes_of_q8(products) if kind is BlockType.Q8_0 else _bytes_of_q4(products)
    return torch.cat([stored.view(torch.uint8), codes], dim=-1).view(*x.shape[:-1], -1)


def decode(data: torch.Tensor, kind: BlockType) -> torch.Tensor:
    """Values of :func:`encode`'s bytes: (..., bytes) -> (..., columns), fp32.

    Raises:
        BadInputError: bytes that are no whole blocks.
    """
    if data.dtype is not torch.uint8 or data.dim() == 0 or data.shape[-1] % kind.block_bytes:
        raise BadInputError(
            f"{kind} comes in uint8 blocks of {kind.block_bytes} bytes: got {data.dtype} {tuple(data.shape)}"
        )
    blocks = data.reshape(-1, kind.block_bytes)
    scale = blocks[:, :_SCALE_BYTES].contiguous().view(torch.float16).to(torch.float32)
    codes = blocks[:, _SCALE_BYTES:]
    if kind is BlockType.Q8_0:
        whole = codes.contiguous().view(torch.int8).to(torch.float32)
    else:
        whole = torch.cat([codes & 15, codes >> 4], dim=-1).to(torch.float32) - 8
    return (whole * scale).view(*data.shape[:-1], data.shape[-1] // kind.block_bytes * BLOCK)


def fake_quantize(x: torch.Tensor, kind: BlockType) -> torch.Tensor:
    """``x`` (..., columns) as its blocks hold it, in its dtype.

    Raises:
        BadInputError: as :func:`encode`.
    """
    return decode(encode(x, kind), kind).to(x.dtype)


def _scale(blocks: torch.Tensor, kind: BlockType) -> torch.Tensor:
    """(blocks, 1), fp32."""
    magnitudes = blocks.abs()
    largest = magnitudes.amax(dim=-1, keepdim=True)
    if kind is BlockType.Q8_0:
        return largest / 127
    places = torch.arange(BLOCK, device=blocks.device).expand_as(blocks)
    # torch leaves open which of equal elements argmax names; the format takes the first
    first = torch.where(magnitudes == largest, places, BLOCK).amin(dim=-1, keepdim=True)
    return blocks.gather(-1, first) / -8


def _bytes_of_q8(products: torch.Tensor) -> torch.Tensor:
    magnitudes = products.abs()
    floors = magnitudes.floor()
    rounded = floors + (2 * (magnitudes - floors)).floor()
    return (products.sign() * rounded).to(torch.int8).view(torch.uint8)


def _bytes_of_q4(products: torch.Tensor) -> torch.Tensor:
    codes = (products + 8.5).trunc().clamp(0, 15).to(torch.uint8)
    return codes[:, :_HALF] | (codes[:, _HALF:] << 4)
