"""Cells of a table from scores at bitmaps."""

from __future__ import annotations

from orchestrate.document.cell import Cell
from orchestrate.document.planned_step import PlannedStep, bitmap_specs
from orchestrate.document.table_config import Place
from orchestrate.runs.directory import read_result
from orchestrate.runs.layout import RESULT


def score_cell(place: Place, step: PlannedStep) -> Cell:
    """Read a metric or a cost of a bitmap that the step scored."""
    position = [str(spec) for spec in bitmap_specs(step)].index(place.of)
    row = read_result(step.folder / RESULT)["rows"][position]
    if place.metric in row["metrics"]:
        value, low, high = row["metrics"][place.metric]
        return Cell.none("not finite: the model collapsed here") if value is None else Cell(value, low, high)
    if place.metric in row["cost"]:
        return Cell.sure(row["cost"][place.metric])
    return Cell.none("not measured: this model has no such figure")
