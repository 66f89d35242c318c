"""Symmetric MinMax, the default (LLM-QAT, Liu et al. 2023, arXiv 2305.17888; docs/methods/quantizers.md, "symmetric").

    Q = 2^(b-1) - 1,  s = max|x| / Q  (1 where the group is zero),  q = clamp(rne(x / s), -Q, Q),  x^ = q s

The narrow range [-Q, Q] makes the quantizer odd: fq(-x) = -fq(x) exactly.  ``range="full"`` is the convention of
compressed-tensors: s = max|x| / (2^b - 1) * 2 with codes that start at -2^(b-1), where the largest value is clipped by
half a step and ties lose the symmetry.  The two must never be mixed.

One bit is sign(x) * mean|x| with sign(0) = +1, since Q would be 0.  Two bits are ternary: on rows close to a normal
distribution about nine tenths of the weights become 0; ``midrise2`` has four levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from qalof.errors import BadInputError
from qalof.quantization.granularity import absolute_maximum, mean_magnitude
from qalof.quantization.quantizer import QParams, Quantizer


@dataclass(frozen=True, kw_only=True)
class Symmetric(Quantizer, method="symmetric"):
    """Integer codes around zero, of which each stands for code * scale."""

    range: Literal["narrow", "full"] = "narrow"
    """Which codes there are: ``narrow`` has [-Q, Q], ``full`` has [-2^(b-1), 2^(b-1) - 1]."""

    scaled_codes: ClassVar[bool] = True

    def code_range(self, bits: float) -> tuple[int, int]:
        """Let the codes reach from -Q to Q in the narrow range; at one bit they are -1 and 1, and 0 is not used."""
        if bits == 1:
            return -1, 1
        divisor = self._divisor(bits)
        if self.range == "narrow":
            highest = math.floor(divisor + 0.5)
            return -highest, highest
        return -math.floor(divisor + 0.5), math.ceil(divisor - 0.5)

    def _grid_of(self, x: torch.Tensor, bits: float) -> QParams:
        if bits == 1:
            return QParams(self._stored(mean_magnitude(x)))
        return self._grid_of_maximum(absolute_maximum(x), bits)

    def _qparams_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> QParams:
        if bits == 1:
            raise BadInputError("one bit is scaled by a mean, which a static range does not know: take 2 bits or more")
        return self._grid_of_maximum(torch.maximum(high, -low), bits)

    def _grid_of_maximum(self, maximum: torch.Tensor, bits: float) -> QParams:
        scale = self._stored(maximum / self._divisor(bits))
        return QParams(scale.masked_fill_(scale == 0, 1))

    def _divisor(self, bits: float) -> float:
        """Return how many steps reach from 0 to the maximum: Q, or half of 2^b - 1."""
        steps = 2 ** (bits - 1) - 1 if self.range == "narrow" else 2**bits - 1
        steps = math.floor(steps) if self.fractional_bits == "floor" else steps
        return steps if self.range == "narrow" else steps / 2

    def _codes(self, x: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        if bits == 1:
            return torch.ones_like(x).masked_fill_(x < 0, -1)
        return (x / qparams.scale).round_().clamp_(*self.code_range(bits))

    def _values(self, codes: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        return codes.mul_(qparams.scale)
