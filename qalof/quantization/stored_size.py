"""The size of a quantized tensor when it is stored: pure numbers, which packing and the cost model share.

A quantizer's stored form is dense codes, row by row, where each row starts at a whole byte, followed by one scale per
group and, where the method has one, one zero point per group (:mod:`qalof.quantization.packing`).  A method's codebook,
such as NF4's sixteen levels, is part of the method and is not stored.  :meth:`QuantizerOptions.stored_size` computes a
:class:`StoredSize` from rows, columns and bits alone, and a test packs every method and compares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qalof.errors import BadInputError
from qalof.layer_bits import FLOAT_BYTES as FLOAT_BYTES

LOWEST_BITS, HIGHEST_BITS = 2, 16
"""The fewest and the most bits of a stored code."""


@dataclass(frozen=True)
class StoredSize:
    """The bytes of a stored tensor: ``codes`` (or the numbers themselves), ``scales`` and ``zero_points``."""

    codes: int
    scales: int = 0
    zero_points: int = 0

    @property
    def total(self) -> int:
        """The sum of all three parts, in bytes."""
        return self.codes + self.scales + self.zero_points


def stored_bits(bits: float) -> int:
    """Return how many bits a stored code has: a width between two whole ones takes the next whole one.

    Raises:
        BadInputError: The code would have fewer than 2 or more than 16 bits.
    """
    whole = math.ceil(bits)
    if not LOWEST_BITS <= whole <= HIGHEST_BITS:
        raise BadInputError(f"packed codes have {LOWEST_BITS} to {HIGHEST_BITS} bits: got {bits}")
    return whole


def code_bytes(rows: int, columns: int, bits: float) -> int:
    """Return the bytes of the codes of a (rows, columns) tensor, where each row starts at a whole byte."""
    return rows * -(-columns * stored_bits(bits) // 8)
