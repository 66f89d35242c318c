"""What ``search`` found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrate.document.findings import evaluation_of, recorded, well_formed
from orchestrate.document.record import Step
from orchestrate.runs.layout import FRONT, SEARCH_RECORD
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from search.objective import Objective
from search.point import Point
from search.result import SearchResult


@dataclass(frozen=True)
class Searched:
    """What ``search`` found: its result, and its points' scores per example, which are None where they were not
    kept; and what examples said that the search has not seen, as ``result.json`` has it.
    """

    result: SearchResult
    evaluations: tuple[Evaluation | None, ...]
    judgement: Mapping[str, Any] | None = None

    @property
    def quality(self) -> Objective:
        """The first objective that was measured, or the first metric where all objectives are costs."""
        measured = [objective for objective in self.result.objectives if not objective.is_cost]
        if measured:
            return measured[0]
        metric = next(iter(self.result.points[0].metrics))
        return Objective.parse(metric)

    @property
    def examples(self) -> int:
        """How many examples are behind each score."""
        return max(point.examples for point in self.result.points)

    @property
    def price(self) -> str:
        """The first objective that is a cost, or average bits where none is."""
        return next((objective.name for objective in self.result.objectives if objective.is_cost), "average_bits")


def searched_of(step: Step) -> Searched | None:
    """Return the findings of a step, if they are those of a search."""
    return step.findings if isinstance(step.findings, Searched) else None


def searched(folder: Path, result: Mapping[str, Any]) -> Searched:
    """Read the result of a search, and the scores per example of its points.

    Raises:
        BadInputError: a file is missing, damaged, or does not fit the result.
    """
    with well_formed(folder / FRONT, "search result"):
        found = SearchResult.load(folder)
    counts = len(found.points), len(found.front_points)
    if counts != (result["evaluations"], len(result["front"])) or not found.points:
        raise BadInputError(
            f"{folder / FRONT} must hold result.json's {result['evaluations']} evaluations and its front of "
            f"{len(result['front'])}: it has {counts[0]} and {counts[1]}; run the step again"
        )
    known = _recorded(folder / SEARCH_RECORD)
    return Searched(
        found, tuple(_fitting(point, known.get(point.bitmap)) for point in found.points), result.get("judgement")
    )


def _recorded(path: Path) -> dict[Bitmap, Evaluation]:
    with well_formed(path, "record of evaluations"):
        return {
            Bitmap.from_json(line["bitmap"]): evaluation_of(line["evaluation"])
            for line in recorded(path)
            if "bitmap" in line
        }


def _fitting(point: Point, evaluation: Evaluation | None) -> Evaluation | None:
    """Return the evaluation if it is the point's own: a record may hold those of other checkpoints as well."""
    if evaluation is None or evaluation.examples != point.examples:
        return None
    same = (
        np.isclose(evaluation.metrics.get(name, np.nan), interval.estimate, rtol=1e-12, equal_nan=True)
        for name, interval in point.metrics.items()
    )
    return evaluation if all(same) else None
