"""What ``train`` and ``evaluate`` found: scores at bitmaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrate.document.findings import evaluation_of, intervals, well_formed
from orchestrate.document.record import Step
from orchestrate.runs.layout import EVALUATIONS
from qalof.bitmap import Bitmap
from qalof.cost import Cost
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.files import read_json
from qalof.tasks.factory import TASKS
from search.point import Point


@dataclass(frozen=True)
class Scored:
    """What ``train`` and ``evaluate`` found: ``points`` in the order of the result's rows, and their
    ``evaluations``.
    """

    task: str
    points: tuple[Point, ...]
    evaluations: tuple[Evaluation, ...]

    @property
    def metric(self) -> str:
        """The metric to speak of: the task's own."""
        primary: str = TASKS[self.task][0].primary_metric
        return primary

    @property
    def reference(self) -> int:
        """The position of the bitmap with the most bits."""
        return max(range(len(self.points)), key=lambda index: self.points[index].cost.average_bits)


def scored_of(step: Step) -> Scored | None:
    """Return the findings of a step, if they are scores at bitmaps."""
    return step.findings if isinstance(step.findings, Scored) else None


def scored(folder: Path, result: Mapping[str, Any]) -> Scored:
    """Read scores at bitmaps, and those of every example.

    Raises:
        BadInputError: a file is missing or damaged, or does not fit the result.
    """
    path = folder / EVALUATIONS
    rows, kept = result["rows"], read_json(path, "per-example scores")
    with well_formed(path, "per-example scores"):
        bitmaps = [Bitmap.from_json(entry["bitmap"]) for entry in kept]
        evaluations = tuple(evaluation_of(entry["evaluation"]) for entry in kept)
    if not rows or [row["bitmap"] for row in rows] != [str(bitmap) for bitmap in bitmaps]:
        raise BadInputError(f"{path} must hold the bitmaps of result.json's rows: it does not; run the step again")
    points = tuple(
        Point(bitmap, Cost(**row["cost"]), intervals(row["metrics"]), (), int(row["examples"]))
        for bitmap, row in zip(bitmaps, rows, strict=True)
    )
    return Scored(str(result["task"]), points, evaluations)
