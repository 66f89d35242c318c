"""Asymmetric MinMax (algorithms.md 1.2; CPT, InstantNet and DWQ's code).

    n = 2^b - 1,  s = (hi - lo) / n,  q = clamp(rne((x - lo) / s), 0, n),  x^ = q s + lo

``zero_point="float"`` keeps ``lo`` as it is, which all three do: no level then falls on zero exactly, so that zero
padding comes back as something else.  ``anchor_zero`` widens the range to hold 0.  ``zero_point="integer"`` is
z = rne(-lo / s), q = clamp(rne(x / s) + z, 0, n), x^ = (q - z) s: zero is a level.  It always anchors, since z must be
a code itself to be stored with b bits, and a constant row would else come back as rne(lo).

A constant row gives s = 1 and x^ = lo (InstantNet's code returns 0 there; CPT and DWQ return lo).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from qalof.quantization.quantizer import Grid, Quantizer


@dataclass(frozen=True, kw_only=True)
class Asymmetric(Quantizer, method="asymmetric"):
    """Codes from 0 on; ``grid.zero`` is ``lo`` or the integer zero point."""

    zero_point: Literal["float", "integer"] = "float"
    """``float`` keeps the lowest value as it is; ``integer`` makes zero a level."""
    anchor_zero: bool = False
    """Whether the range is widened to hold zero; ``integer`` always widens it."""

    has_zero: ClassVar[bool] = True

    @property
    def zero_dtype(self) -> torch.dtype:
        """uint16 for a zero point, which is a code; fp16 would round it from 12 bits on."""
        return torch.uint16 if self.zero_point == "integer" else self.stored_dtype

    @property
    def zero_point_bytes(self) -> int:
        """Those of :attr:`zero_dtype`."""
        return 2 if self.zero_point == "integer" else self.scale_bytes

    def code_range(self, bits: float) -> tuple[int, int]:
        """0 and n; a real n is rounded half up, with a zero point upwards, which its own rounding may use up."""
        divisor, highest = self._levels(2**bits - 1)
        return 0, highest if self.zero_point == "float" else math.ceil(divisor)

    def _grid_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> Grid:
        if self.anchor_zero or self.zero_point == "integer":
            low, high = low.clamp(max=0), high.clamp(min=0)
        divisor, _ = self._levels(2**bits - 1)
        if self.zero_point == "float":
            low = -self._stored(-low)  # downwards, so that nothing falls below it
        scale = self._stored((high - low) / divisor)
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero = low if self.zero_point == "float" else (-low / scale).round_().clamp_(*self.code_range(bits))
        return Grid(scale, zero)

    def _codes(self, x: torch.Tensor, grid: Grid, bits: float) -> torch.Tensor:
        assert grid.zero is not None
        if self.zero_point == "float":
            steps = torch.sub(x, grid.zero).div_(grid.scale).round_()
        else:
            steps = torch.div(x, grid.scale).round_().add_(grid.zero)
        return steps.clamp_(*self.code_range(bits))

    def _values(self, codes: torch.Tensor, grid: Grid, bits: float) -> torch.Tensor:
        assert grid.zero is not None
        if self.zero_point == "float":
            return codes.mul_(grid.scale).add_(grid.zero)
        return codes.sub_(grid.zero).mul_(grid.scale)
