"""Cells of a table from a ``search`` step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrate.document.cell import Cell
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.table_config import Place
from orchestrate.jobs.base import Offer
from qalof.cost import MODEL_COSTS
from search import SearchResult

TRACE = ("tried", "kept")


def offered(of: str, metrics: Callable[[], Sequence[str]]) -> Offer:
    """Say what may stand in the middle of a cell, and the metrics that go with it."""
    if of == "trace":
        return None, TRACE
    return ["start", "final", "trace"], (*metrics(), *MODEL_COSTS)


def search_cell(place: Place, step: PlannedStep) -> Cell:
    """Read a metric or cost of the first or the last bitmap that a search kept, or a count of its steps."""
    found = SearchResult.load(step.folder)
    if place.of == "trace":
        kept = [row for row in found.trace if row.get("accepted")]
        return Cell.sure(len(kept) if place.metric == "kept" else len(found.trace))
    first = max(found.points, key=lambda point: point.cost.average_bits)
    kept_rows = [row for row in found.trace if row.get("accepted")]
    point = first
    if place.of == "final" and kept_rows:
        # steps only go down, so the last one kept is the only point of its size
        size = kept_rows[-1]["weight_bytes"]
        point = next(each for each in found.points if each.cost.weight_bytes == size and _same(each, kept_rows[-1]))
    if place.metric in point.metrics:
        interval = point.metrics[place.metric]
        return Cell(interval.estimate, interval.low, interval.high)
    return Cell.sure(point.value(place.metric))


def _same(point: Any, row: Mapping[str, Any]) -> bool:
    return all(math.isclose(point.metrics[name].estimate, row[name]) for name in point.metrics if name in row)
