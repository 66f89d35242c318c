"""What each command found, read from its run directory into typed values.

The writers are :mod:`orchestrate.jobs`, :mod:`orchestrate.evaluation_jobs` and the cores below them.  Whatever does
not have their form is refused by the name of its file: a report must not show a number that is half read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from orchestrate.report.output_errors import OutputErrors, output_errors
from orchestrate.report.tool_findings import (
    ToolFindings,
    baselines,
    generated,
    intervals,
    measured,
    range_tested,
    swept,
)
from qalof.attacks.attack import AttackResult
from qalof.attacks.robustness import RobustnessReport
from qalof.bitmap import Bitmap
from qalof.cost import Cost
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.files import read_json, read_whole_lines
from qalof.metrics import DROP
from qalof.statistics import Interval, from_nullable
from qalof.tasks.factory import TASKS
from search.objective import Objective
from search.result import Point, SearchResult

EVALUATIONS, SEARCH_RECORD, ATTACK_RECORD = "evaluations.json", "search.jsonl", "attacks.jsonl"


@dataclass(frozen=True)
class Scored:
    """Of ``train`` and ``evaluate``: ``points`` in the order of the result's rows, ``evaluations`` beside them."""

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
        """Position of the bitmap with the most bits."""
        return max(range(len(self.points)), key=lambda index: self.points[index].cost.average_bits)


@dataclass(frozen=True)
class Drop:
    """What lowering ``unit`` alone to ``bits`` costs: a positive ``drop`` is a loss."""

    unit: str
    bits: str
    drop: Interval
    average_bits: float
    weight_bytes: int


@dataclass(frozen=True)
class Ranked:
    """Of ``sensitivity``: ``drops`` of ``metric`` from the most tolerant unit on; ``reference``: at ``bits``."""

    metric: str
    bits: str
    reference: Interval
    drops: tuple[Drop, ...]


@dataclass(frozen=True)
class Searched:
    """Of ``search``: its result, and the per-example scores of its points, None where they were not kept."""

    result: SearchResult
    evaluations: tuple[Evaluation | None, ...]

    @property
    def quality(self) -> Objective:
        """The first objective that was measured; the first metric where all are costs."""
        measured = [objective for objective in self.result.objectives if not objective.is_cost]
        if measured:
            return measured[0]
        metric = next(iter(self.result.points[0].metrics))
        return Objective.parse(metric)

    @property
    def price(self) -> str:
        """The first objective that is a cost; average bits where none is."""
        return next((objective.name for objective in self.result.objectives if objective.is_cost), "average_bits")


@dataclass(frozen=True)
class Attacked:
    """Of ``attack``: the figures, and each source's results in the order of its bitmaps (empty if not kept)."""

    robustness: RobustnessReport
    results: Mapping[str, tuple[AttackResult, ...]]


Findings = Scored | Ranked | OutputErrors | Searched | Attacked | ToolFindings


@contextmanager
def well_formed(path: Path, what: str) -> Iterator[None]:
    """Turn whatever goes wrong in taking data apart into an error that names the file.

    Raises:
        BadInputError: see above.
    """
    try:
        yield
    except BadInputError as error:
        # what reads values does not know of files; what reads files has named one already
        if str(path.parent) in str(error):
            raise
        raise BadInputError(f"{what} {path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BadInputError(
            f"{what} {path} must have the form that qalof writes: {type(error).__name__}: {error}; "
            "restore it, or delete it and run the step again"
        ) from None


def read_findings(command: str, folder: Path, result: Mapping[str, Any]) -> Findings | None:
    """The findings of a finished run; None of a command that has none of its own form.

    Args:
        command: of the run.
        folder: its run directory.
        result: the content of its ``result.json``.

    Raises:
        BadInputError: a file is missing, damaged, or does not fit the result.
    """
    reader = _READERS.get(command)
    if reader is None:
        return None
    with well_formed(folder / "result.json", "result file"):
        return reader(folder, result)


def _scored(folder: Path, result: Mapping[str, Any]) -> Scored:
    path = folder / EVALUATIONS
    rows, kept = result["rows"], read_json(path, "per-example scores")
    with well_formed(path, "per-example scores"):
        bitmaps = [Bitmap.from_json(entry["bitmap"]) for entry in kept]
        evaluations = tuple(_evaluation(entry["evaluation"]) for entry in kept)
    if not rows or [row["bitmap"] for row in rows] != [str(bitmap) for bitmap in bitmaps]:
        raise BadInputError(f"{path} must hold the bitmaps of result.json's rows: it does not; run the step again")
    points = tuple(
        Point(bitmap, Cost(**row["cost"]), intervals(row["metrics"]), (), int(row["examples"]))
        for bitmap, row in zip(bitmaps, rows, strict=True)
    )
    return Scored(str(result["task"]), points, evaluations)


def _ranked(folder: Path, result: Mapping[str, Any]) -> Ranked | OutputErrors:
    if result.get("score") == "output_error":
        return output_errors(result)
    metric, reference = str(result["metric"]), result["reference"]
    drops = tuple(
        Drop(
            str(row["unit"]),
            str(row["bits"]),
            Interval.from_columns(row, f"{metric}{DROP}"),
            float(row["average_bits"]),
            int(row["weight_bytes"]),
        )
        for row in result["ranking"]
    )
    if not drops:
        raise BadInputError(f"result file {folder / 'result.json'} must rank at least one unit: it ranks none")
    return Ranked(metric, str(reference["bits"]), Interval.from_json(reference[metric]), drops)


def _searched(folder: Path, result: Mapping[str, Any]) -> Searched:
    with well_formed(folder / "front.json", "search result"):
        found = SearchResult.load(folder)
    counts = len(found.points), len(found.front_points)
    if counts != (result["evaluations"], len(result["front"])) or not found.points:
        raise BadInputError(
            f"{folder / 'front.json'} must hold result.json's {result['evaluations']} evaluations and its front of "
            f"{len(result['front'])}: it has {counts[0]} and {counts[1]}; run the step again"
        )
    known = _recorded(folder / SEARCH_RECORD)
    return Searched(found, tuple(_fitting(point, known.get(point.bitmap)) for point in found.points))


def _attacked(folder: Path, result: Mapping[str, Any]) -> Attacked:
    report = RobustnessReport.from_json(result["robustness"])
    path = folder / ATTACK_RECORD
    by_source: dict[str, list[AttackResult]] = {bitmap: [] for bitmap in report.bitmaps}
    with well_formed(path, "attack record"):
        for line in _lines(path):
            attacked = AttackResult.from_json(line)
            by_source.setdefault(attacked.bitmap, []).append(attacked)
    return Attacked(report, {bitmap: tuple(sorted(r, key=_example)) for bitmap, r in by_source.items()})


def _recorded(path: Path) -> dict[Bitmap, Evaluation]:
    with well_formed(path, "record of evaluations"):
        return {Bitmap.from_json(line["bitmap"]): _evaluation(line["evaluation"]) for line in _lines(path)}


def _fitting(point: Point, evaluation: Evaluation | None) -> Evaluation | None:
    """The evaluation if it is the point's own: a record may hold those of other checkpoints as well."""
    if evaluation is None or evaluation.examples != point.examples:
        return None
    same = (
        np.isclose(evaluation.metrics.get(name, np.nan), interval.estimate, rtol=1e-12, equal_nan=True)
        for name, interval in point.metrics.items()
    )
    return evaluation if all(same) else None


def _lines(path: Path) -> Iterator[Any]:
    """The JSON lines of a record; one that a kill tore off lacks its end and is no line."""
    yield from (json.loads(line) for line in read_whole_lines(path) if line)


def recorded_lines(path: Path) -> int:
    """How many whole lines a record has; 0 where there is none."""
    return len(read_whole_lines(path))


def _evaluation(data: Mapping[str, Any]) -> Evaluation:
    read = Evaluation.from_json(data)
    scores = {name: [from_nullable(value) for value in values] for name, values in read.per_example.items()}
    return replace(read, metrics={k: from_nullable(v) for k, v in read.metrics.items()}, per_example=scores)


def _example(result: AttackResult) -> int:
    return result.example_id


_READERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Findings]] = {
    "train": _scored,
    "evaluate": _scored,
    "sensitivity": _ranked,
    "search": _searched,
    "attack": _attacked,
    "sweep": swept,
    "range-test": range_tested,
    "baselines": baselines,
    "footprint": measured,
    "generate-data": generated,
}
