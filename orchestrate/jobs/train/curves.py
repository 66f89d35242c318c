"""The training losses of a run directory, with one curve per bitmap, from the file that ``train`` writes step by step.

A resumed run repeats steps; the last line of a step counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from orchestrate.document.findings import well_formed
from orchestrate.jobs.train.losses import by_step
from orchestrate.runs.layout import LOSSES

OPTIMIZED = "optimized loss"
"""The name of the curve of the optimized loss, where that is more than the mean of the cross entropies."""
_ALIKE = 1e-5


@dataclass(frozen=True)
class LossCurve:
    """The cross entropy of ``bitmap`` in nats, at each of ``steps``, which rise and count from 1.

    The curve named :data:`OPTIMIZED` holds the optimized loss instead.
    """

    bitmap: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


def read_losses(folder: Path) -> tuple[LossCurve, ...]:
    """Read the curves of a training run; there are none where no step was written.

    The optimized loss comes first, where it differs from the mean of the bitmaps' cross entropies; then come the
    bitmaps, from the widest on.

    Raises:
        BadInputError: a line that is not torn has another form.
    """
    path = folder / LOSSES
    losses: dict[int, Mapping[str, float]] = {}
    optimized: dict[int, Mapping[str, float]] = {}
    with well_formed(path, "record of losses"):
        for step, entry in by_step(path).items():
            losses[step] = {str(bitmap): float(loss) for bitmap, loss in entry["losses"].items()}
            if entry.get("objective") is not None:
                optimized[step] = {OPTIMIZED: float(entry["objective"])}
    bitmaps = sorted({bitmap for at in losses.values() for bitmap in at}, key=_widest_first)
    curves = [_curve(bitmap, losses) for bitmap in bitmaps]
    if any(_differ(optimized[step][OPTIMIZED], losses[step]) for step in optimized):
        curves.insert(0, _curve(OPTIMIZED, optimized))
    return tuple(curve for curve in curves if curve.steps)


def _differ(optimized: float, losses: Mapping[str, float]) -> bool:
    return not math.isclose(optimized, fmean(losses.values()), rel_tol=_ALIKE)


def _curve(bitmap: str, losses: Mapping[int, Mapping[str, float]]) -> LossCurve:
    known = [(step + 1, losses[step][bitmap]) for step in sorted(losses) if bitmap in losses[step]]
    finite = [(step, loss) for step, loss in known if math.isfinite(loss)]
    return LossCurve(bitmap, tuple(step for step, _ in finite), tuple(loss for _, loss in finite))


def _widest_first(bitmap: str) -> tuple[bool, int, str]:
    return (False, -int(bitmap), "") if bitmap.isdigit() else (True, 0, bitmap)
