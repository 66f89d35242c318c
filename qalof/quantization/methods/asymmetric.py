"""Asymmetric MinMax, as in the code of CPT, InstantNet and Double-Win Quant (docs/methods/quantizers.md, "asymmetric").

    n = 2^b - 1,  s = (hi - lo) / n,  q = clamp(rne((x - lo) / s), 0, n),  x^ = q s + lo

``zero_point="float"`` keeps ``lo`` as it is, which all three do. No level then falls on zero exactly, so zero padding
comes back as another number.  ``anchor_zero`` widens the range to hold 0.  ``zero_point="integer"`` is z = rne(-lo /
s), q = clamp(rne(x / s) + z, 0, n), x^ = (q - z) s: zero is a level.  It always anchors, since z must be a code itself
to be stored with b bits; without an anchor, a constant row would come back as rne(lo).

A constant row gives s = 1 and x^ = lo (InstantNet's code returns 0 there; CPT and Double-Win Quant return lo).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from qalof.quantization.quantizer import QParams, Quantizer


@dataclass(frozen=True, kw_only=True)
class Asymmetric(Quantizer, method="asymmetric"):
    """Codes start at 0; ``qparams.zero_point`` is ``lo`` or the integer zero point."""

    zero_point: Literal["float", "integer"] = "float"
    """What the lowest value becomes: ``float`` keeps the lowest value as it is; ``integer`` makes zero a level."""
    anchor_zero: bool = False
    """Whether the range is widened to hold zero; ``integer`` always widens it."""

    has_zero_point: ClassVar[bool] = True

    @property
    def zero_dtype(self) -> torch.dtype:
        """A zero point, which is a code, is stored in uint16; fp16 would round it from 12 bits on."""
        return torch.uint16 if self.zero_point == "integer" else self.stored_dtype

    @property
    def zero_point_bytes(self) -> int:
        """The size in bytes of one number of :attr:`zero_dtype`."""
        return 2 if self.zero_point == "integer" else self.scale_bytes

    def code_range(self, bits: float) -> tuple[int, int]:
        """Let the codes reach from 0 to n. A real n is rounded half up; with an integer zero point it is rounded
        upwards, since the rounding of the zero point may need one code more.
        """
        divisor, highest = self._levels(2**bits - 1)
        return 0, highest if self.zero_point == "float" else math.ceil(divisor)

    def _qparams_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> QParams:
        if self.anchor_zero or self.zero_point == "integer":
            low, high = low.clamp(max=0), high.clamp(min=0)
        divisor, _ = self._levels(2**bits - 1)
        if self.zero_point == "float":
            low = -self._stored(-low)  # rounded downwards, so no value falls below it
        scale = self._stored((high - low) / divisor)
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero_point = low if self.zero_point == "float" else (-low / scale).round_().clamp_(*self.code_range(bits))
        return QParams(scale, zero_point)

    def _codes(self, x: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        assert qparams.zero_point is not None
        if self.zero_point == "float":
            steps = torch.sub(x, qparams.zero_point).div_(qparams.scale).round_()
        else:
            steps = torch.div(x, qparams.scale).round_().add_(qparams.zero_point)
        return steps.clamp_(*self.code_range(bits))

    def _values(self, codes: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        assert qparams.zero_point is not None
        if self.zero_point == "float":
            return codes.mul_(qparams.scale).add_(qparams.zero_point)
        return codes.sub_(qparams.zero_point).mul_(qparams.scale)
