"""A number for a table, or the reason why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A value with its 95 % bounds; NaN and a ``reason`` where there is none."""

    value: float
    low: float
    high: float
    reason: str = ""

    @classmethod
    def sure(cls, value: float) -> Cell:
        """A count or a measure without spread."""
        return cls(float(value), float(value), float(value))

    @classmethod
    def none(cls, reason: str) -> Cell:
        """No value."""
        return cls(math.nan, math.nan, math.nan, reason)
