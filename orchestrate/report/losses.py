"""Training losses of a run directory, one curve a bitmap, from the file that ``train`` writes step by step.

A resumed run repeats steps; the last line of a step counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrate.loss_record import LOSSES, entries
from orchestrate.report.findings import well_formed


@dataclass(frozen=True)
class LossCurve:
    """``values``: cross entropy in nats at each of ``steps``, which rise and count from 1."""

    bitmap: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


def read_losses(folder: Path) -> tuple[LossCurve, ...]:
    """The curves of a training run, the widest bitmap first; none where no step was written.

    Raises:
        BadInputError: a line, other than a torn one, has another form.
    """
    path = folder / LOSSES
    by_step: dict[int, Mapping[str, float]] = {}
    with well_formed(path, "record of losses"):
        for entry in entries(path):
            by_step[int(entry["step"])] = {str(bitmap): float(loss) for bitmap, loss in entry["losses"].items()}
    bitmaps = sorted({bitmap for losses in by_step.values() for bitmap in losses}, key=_widest_first)
    return tuple(curve for curve in (_curve(bitmap, by_step) for bitmap in bitmaps) if curve.steps)


def _curve(bitmap: str, by_step: Mapping[int, Mapping[str, float]]) -> LossCurve:
    known = [(step + 1, by_step[step][bitmap]) for step in sorted(by_step) if bitmap in by_step[step]]
    finite = [(step, loss) for step, loss in known if math.isfinite(loss)]
    return LossCurve(bitmap, tuple(step for step, _ in finite), tuple(loss for _, loss in finite))


def _widest_first(bitmap: str) -> tuple[bool, int, str]:
    return (False, -int(bitmap), "") if bitmap.isdigit() else (True, 0, bitmap)
