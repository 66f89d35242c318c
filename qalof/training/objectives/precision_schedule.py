"""The bit-width of each step in cyclic precision training (CPT, arXiv 2101.09868; docs/methods/cpt.md).

    B(t) = rne( Bmin + (Bmax - Bmin) rise(z) ),   z in [0, 1) the phase within a cycle

==============  ==================================  ====================================================
shape           rise(z)
==============  ==================================  ====================================================
cosine          (1 - cos(pi z)) / 2                 CPT's own
linear          z
exponential     1 - exp(-4 z)                       early at the top
rex             1 - (1 - z) / (0.1 + 0.9 (1 - z))   late at the top (reflected exponential)
==============  ==================================  ====================================================

A ``repeated`` schedule rises in every cycle and drops to Bmin at the start of the next.  A ``triangular`` one falls in
even cycles, counted from 0, and rises in odd ones, so it ends at Bmax if the number of cycles is even.  A fall mirrors
the rise ``vertical``-ly, Bmin + Bmax - B(z), or ``horizontal``-ly, B(1 - z).  Shapes and forms are those of the later
suite of schedules (Wolfe and Kyrillidis 2024, arXiv 2403.02243).

The official code takes z = (t mod T)/T with T = floor(total/N), so the remainder of 1,000 steps in 32 cycles, 8 steps,
runs at Bmin, and training *ends* at the lowest width. By default z = frac(t N / total) here, which has no remainder;
``official_remainder`` repeats the official code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from qalof.errors import BadInputError
from qalof.laws import Count, Width, check_numbers

Shape = Literal["cosine", "linear", "exponential", "rex"]
Form = Literal["repeated", "triangular"]
Flip = Literal["vertical", "horizontal"]

RISES: dict[Shape, Callable[[float], float]] = {
    "cosine": lambda z: (1 - math.cos(math.pi * z)) / 2,
    "linear": lambda z: z,
    "exponential": lambda z: 1 - math.exp(-4 * z),
    "rex": lambda z: 1 - (1 - z) / (0.1 + 0.9 * (1 - z)),
}
"""A function from the phase z in [0, 1] to how far a width has risen, in [0, 1]."""


@dataclass(frozen=True)
class CyclicPrecision:
    """Cycles between two widths, as a pure function of the step."""

    lowest: Width = 4
    highest: Width = 8
    cycles: Count = 32
    steps: Count = 1000
    official_remainder: bool = False
    shape: Shape = "cosine"
    form: Form = "repeated"
    flip: Flip = "vertical"

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.lowest > self.highest:
            raise BadInputError(f"lowest must not exceed highest: got {self.lowest} and {self.highest}")
        if self.cycles > self.steps:
            raise BadInputError(f"cycles must lie between 1 and steps {self.steps}: got {self.cycles}")
        for name, value, known in (
            ("shape", self.shape, tuple(RISES)),
            ("form", self.form, ("repeated", "triangular")),
            ("flip", self.flip, ("vertical", "horizontal")),
        ):
            if value not in known:
                raise BadInputError(f"{name} must be one of {', '.join(known)}: got {value!r}")

    def cycle(self, step: int) -> int:
        """Return the cycle of ``step``, counted from 0; the official remainder begins one more."""
        if self.official_remainder:
            return step // (self.steps // self.cycles)
        return step * self.cycles // self.steps

    def phase(self, step: int) -> float:
        """Return the position of ``step`` in its cycle, in [0, 1)."""
        if self.official_remainder:
            period = self.steps // self.cycles
            return (step % period) / period
        # integers come first: in floats, 3 * (1/3) would begin a cycle one step late
        return (step * self.cycles % self.steps) / self.steps

    def rise(self, step: int) -> float:
        """Return how far the width of ``step`` is above ``lowest``, as a share of the range, before rounding."""
        rises, phase = RISES[self.shape], self.phase(step)
        if self.form == "repeated" or self.cycle(step) % 2:
            return rises(phase)
        return 1 - rises(phase) if self.flip == "vertical" else rises(1 - phase)

    def bits(self, step: int) -> int:
        """Return the width of ``step``, which is counted from 0."""
        return round(self.lowest + (self.highest - self.lowest) * self.rise(step))

    @property
    def widths(self) -> tuple[int, ...]:
        """Every width between the bounds."""
        return tuple(range(self.lowest, self.highest + 1))
