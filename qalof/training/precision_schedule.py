"""The bit-width of each step in cyclic precision training (CPT, arXiv 2101.09868; algorithms.md 4).

    B(t) = rne( Bmin + (Bmax - Bmin) (1 - cos(pi z)) / 2 ),   z in [0, 1) the phase within a cycle

Rising half-cosines.  The official code takes z = (t mod T)/T with T = floor(total/N), so that the
remainder of 1,000 steps in 32 cycles, 8 steps, is spent at Bmin and training *ends* at the lowest width.  By
default z = frac(t N / total) here, which has no remainder; ``official_remainder`` gives the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qalof.bitmap import check_width
from qalof.errors import BadInputError


@dataclass(frozen=True)
class CyclicPrecision:
    """Cosine cycles between two widths; a pure function of the step."""

    lowest: int = 4
    highest: int = 8
    cycles: int = 32
    steps: int = 1000
    official_remainder: bool = False

    def __post_init__(self) -> None:
        check_width(self.lowest, "lowest")
        check_width(self.highest, "highest")
        if self.lowest > self.highest:
            raise BadInputError(f"lowest must not exceed highest: got {self.lowest} and {self.highest}")
        if not 1 <= self.cycles <= self.steps:
            raise BadInputError(f"cycles must lie between 1 and steps {self.steps}: got {self.cycles}")

    def phase(self, step: int) -> float:
        """Where ``step`` lies in its cycle, in [0, 1)."""
        if self.official_remainder:
            period = self.steps // self.cycles
            return (step % period) / period
        # integers first: in floats, 3 * (1/3) would begin a cycle one step late
        return (step * self.cycles % self.steps) / self.steps

    def bits(self, step: int) -> int:
        """The width of ``step``, counted from 0."""
        rise = (1 - math.cos(math.pi * self.phase(step))) / 2
        return round(self.lowest + (self.highest - self.lowest) * rise)

    @property
    def widths(self) -> tuple[int, ...]:
        """Every width between the bounds."""
        return tuple(range(self.lowest, self.highest + 1))
