"""Packed weights: codes as dense bits, with their grid, in as few bytes as the cost model counts
(docs/methods/export.md, "Packed integers").

A code q is stored as u = q + 2^(b-1) (methods without negative codes store u = q) with b bits, the lowest bit first,
one code directly after the other; a row starts at a byte. So at 4 bits a byte is u[2i] | u[2i+1] << 4. The bits left
over at the end of a row are those of a code of 0. A real width takes the bits of the next whole one. Scales, and
``zero_point`` where a method has one, follow in the dtypes of the quantizer. The quantizer says beforehand how many
bytes that is (:meth:`qalof.quantization.options.QuantizerOptions.stored_size`), and :mod:`qalof.cost` relies on it.

Grids are rounded to these dtypes before anything is encoded, so unpacking gives exactly the codes, the grid
and the values that the fake-quantized model runs with.  (The packing is our own because a bitmap's cost is a promise:
compressed-tensors packed floor(32 / b) codes into an int32 up to 0.17, which costs 3.2 bits per weight at b = 3; since
0.18 it packs these very bits, and fills each row up to an int32.)

Eight codes fill b bytes: the bits of four codes go into one 64-bit word, which is cut into bytes; each operation works
on whole columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from qalof.errors import BadInputError
from qalof.quantization.quantizer import QParams, QuantizedTensor, Quantizer
from qalof.quantization.stored_size import stored_bits

_CODES = 8
_HALF = _CODES // 2


@dataclass(frozen=True)
class Packed:
    """One packed weight.

    Attributes:
        data: uint8, (rows, bytes per row).
        grid: the grid, in the dtypes in which it is stored.
        columns: the number of codes per row.
        bits: the width, which may be real; each code takes the next whole number of bits.
        quantizer: the quantizer that encoded it.
    """

    data: torch.Tensor
    qparams: QParams
    columns: int
    bits: float
    quantizer: Quantizer

    @property
    def nbytes(self) -> int:
        """The size in bytes of codes, scales and zero points together."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    def unpack(self) -> QuantizedTensor:
        """Return exactly the codes and the grid that were packed."""
        offset = _offset(self.quantizer, self.bits)
        codes = unpack_rows(self.data, stored_bits(self.bits), self.columns) - offset
        wide = self.quantizer.code_range(self.bits)[1] > torch.iinfo(torch.int16).max
        return QuantizedTensor(codes.to(torch.int32 if wide else torch.int16), self.wide_qparams(), self.bits)

    def wide_qparams(self) -> QParams:
        """Return the grid in fp32."""
        return QParams(
            _as_float(self.qparams.scale),
            None if self.qparams.zero_point is None else _as_float(self.qparams.zero_point),
        )

    def dequantize(self) -> torch.Tensor:
        """Return the values, (rows, columns) in fp32."""
        return self.quantizer.dequantize(self.unpack())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return ``data``, ``scale`` and perhaps ``zero``, for a safetensors file; :meth:`settings` has the rest."""
        parts = {"data": self.data, "scale": self.qparams.scale, "zero": self.qparams.zero_point}
        return {name: part for name, part in parts.items() if part is not None}

    def settings(self) -> dict[str, Any]:
        """Return what is needed to read the tensors, as JSON."""
        return {"columns": self.columns, "bits": self.bits, "quantizer": self.quantizer.to_json()}

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> Self:
        """Read what :meth:`tensors` and :meth:`settings` returned.

        Raises:
            BadInputError: The tensors do not have the shapes or types of such a weight.
        """
        quantizer = Quantizer.from_json(settings["quantizer"])
        columns, bits = settings["columns"], settings["bits"]
        self = cls(tensors["data"], QParams(tensors["scale"], tensors.get("zero")), columns, bits, quantizer)
        expected = packed_bytes(self.data.shape[0], columns, bits, quantizer)
        if self.data.dtype is not torch.uint8 or self.nbytes != expected:
            raise BadInputError(
                f"a packed weight of {self.data.shape[0]} x {columns} at {bits} bits must have {expected} bytes: "
                f"got {self.nbytes} ({self.data.dtype}); pack it again"
            )
        return self


def pack(quantized: QuantizedTensor, quantizer: Quantizer) -> Packed:
    """Pack a weight's codes (rows, columns).

    Raises:
        BadInputError: The width is one bit, the codes are not a matrix, or the quantizer's dtypes cannot represent the
            grid (learned steps or ranges of another quantizer).
    """
    if quantized.codes.dim() != 2:
        raise BadInputError(f"packed codes must be (rows, columns): got shape {tuple(quantized.codes.shape)}")
    bits, codes = stored_bits(quantized.bits), quantized.codes.to(torch.int32)
    data = pack_rows(codes + _offset(quantizer, quantized.bits), bits, _padding(quantizer, quantized.bits))
    dtypes = (quantizer.stored_dtype, quantizer.zero_dtype)
    stored = [None if p is None else _as_stored(p, dtype) for p, dtype in zip(quantized.qparams, dtypes, strict=True)]
    for part, kept in zip(quantized.qparams, stored, strict=True):
        if part is not None and kept is not None and not torch.equal(_as_float(kept).to(part.dtype), part):
            raise BadInputError(
                f"a grid must be exact in {kept.dtype} to be packed: it is not; encode with this quantizer's own grid, "
                "or with scale_dtype float32 and a weight in float32"
            )
    scale, zero_point = stored
    assert scale is not None
    return Packed(data, QParams(scale, zero_point), quantized.codes.shape[1], quantized.bits, quantizer)


def packed_bytes(rows: int, columns: int, bits: float, quantizer: Quantizer) -> int:
    """Return how many bytes :func:`pack` will take, without packing; full precision counts 4 bytes per weight."""
    return quantizer.stored_size(rows, columns, bits).total


def pack_rows(codes: torch.Tensor, bits: int, padding: int = 0) -> torch.Tensor:
    """Pack unsigned codes into dense bits, row by row.

    Args:
        codes: (rows, columns), whole numbers from 0 to 2^bits - 1.
        bits: the bits of each code, 2 to 16.
        padding: the code whose bits fill up the last byte.

    Returns:
        uint8, (rows, ceil(columns bits / 8)).
    """
    rows, columns = codes.shape
    padded = torch.nn.functional.pad(codes, (0, -columns % _CODES), value=padding).to(torch.int64)
    groups = padded.view(rows, -1, _CODES)
    low, high = (_word(groups[..., half : half + _HALF], bits) for half in (0, _HALF))
    seam = _HALF * bits  # the bit at which the second word begins
    data = torch.empty(rows, groups.shape[1], bits, dtype=torch.uint8, device=codes.device)
    for byte in range(bits):
        at = 8 * byte
        if at >= seam:
            value = high >> (at - seam)
        else:
            # bits of the second word that were shifted out are not part of this byte
            value = (low >> at) & _mask(seam - at)
            value = value | (high << (seam - at)) if seam - at < 8 else value
        data[..., byte] = (value & 255).to(torch.uint8)
    return data.view(rows, -1)[:, : -(-columns * bits // 8)].contiguous()


def unpack_rows(data: torch.Tensor, bits: int, columns: int) -> torch.Tensor:
    """Undo :func:`pack_rows`: (rows, columns), int32."""
    rows = data.shape[0]
    groups = -(-columns // _CODES)
    # two more bytes are appended, since a code is read from up to three bytes
    room = torch.zeros(rows, groups, bits + 2, dtype=torch.int32, device=data.device)
    filled = torch.nn.functional.pad(data, (0, groups * bits - data.shape[1]))
    room[..., :bits] = filled.view(rows, groups, bits)
    codes = torch.empty(rows, groups, _CODES, dtype=torch.int32, device=data.device)
    for index in range(_CODES):
        byte, shift = divmod(index * bits, 8)
        value = room[..., byte] | (room[..., byte + 1] << 8)
        if shift + bits > 16:
            value = value | (room[..., byte + 2] << 16)
        codes[..., index] = (value >> shift) & _mask(bits)
    return codes.view(rows, -1)[:, :columns].contiguous()


def _word(four: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the bits of four codes (..., 4) in one int64."""
    word = four[..., 0].clone()
    for index in range(1, _HALF):
        word |= four[..., index] << (index * bits)
    return word


def _mask(bits: int) -> int:
    return (1 << min(bits, 62)) - 1


def _offset(quantizer: Quantizer, bits: float) -> int:
    return 1 << (stored_bits(bits) - 1) if quantizer.code_range(bits)[0] < 0 else 0


def _padding(quantizer: Quantizer, bits: float) -> int:
    """Return the stored form of code 0."""
    return _offset(quantizer, bits)


def _as_stored(part: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return part.to(torch.int32).to(dtype) if dtype is torch.uint16 else part.to(dtype)


def _as_float(part: torch.Tensor) -> torch.Tensor:
    return part.to(torch.int32).to(torch.float32) if part.dtype is torch.uint16 else part.to(torch.float32)
