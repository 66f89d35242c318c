"""A number for a table, or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
        """Make a cell of a count, or of a measure without spread."""
        return cls(float(value), float(value), float(value))

    @classmethod
    def none(cls, reason: str) -> Cell:
        """Make a cell without a value."""
        return cls(math.nan, math.nan, math.nan, reason)


def mean_of(cells: Sequence[Cell], independent: bool) -> Cell:
    """Return the mean of several cells; one cell is its own mean, and a cell without a value leaves the mean without
    one.

    The interval is that of a mean of numbers with the cells' own intervals.  Where they come from different examples,
    half-widths add up in squares; otherwise they add up as they are, which holds however the numbers depend on each
    other.
    """
    missing = next((cell for cell in cells if cell.reason or not math.isfinite(cell.value)), None)
    if len(cells) == 1 or missing is not None:
        return missing or cells[0]
    value = sum(cell.value for cell in cells) / len(cells)
    add = math.hypot if independent else lambda *widths: sum(widths)
    below = add(*(cell.value - cell.low for cell in cells)) / len(cells)
    above = add(*(cell.high - cell.value for cell in cells)) / len(cells)
    return Cell(value, value - below, value + above)
