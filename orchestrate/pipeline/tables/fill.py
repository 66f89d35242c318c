"""Filling a table: every cell comes from the files of its step, and is shown with the reference's number.

A cell has ``value`` with its 95 % interval (``low`` = ``high`` = ``value`` where there is no spread), the
``reference``'s number and the ``difference`` from it; or ``reason``, which says why there is no value.  The reference
gives single numbers of single runs, so a difference has no interval of its own: what can be said is whether the
reference lies within ours (``covered``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrate.document.cell import Cell, mean_of
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.table_config import ColumnConfig, RowConfig, TableConfig, places_of
from orchestrate.pipeline.tables.cells import read_cell
from qalof.files import json_ready

FORMAT_VERSION = 1


def fill(table: TableConfig, steps: Sequence[PlannedStep], scale: str) -> dict[str, Any]:
    """Fill the table with its numbers, as plain data; all steps must be finished.

    Raises:
        BadInputError: a file of a step is missing or damaged, or does not hold what a cell names.
    """
    by_name = {step.name: step for step in steps}
    rows = [
        {"name": row.name, "cells": [_cell(table, index, row, by_name) for index in range(len(table.columns))]}
        for row in table.rows
    ]
    ready: dict[str, Any] = json_ready(
        {
            "format_version": FORMAT_VERSION,
            "title": table.title,
            "source": table.source,
            "scale": scale,
            "columns": [{"name": column.name, "comparable": column.comparable} for column in table.columns],
            "rows": rows,
            "notes": list(table.notes),
        }
    )
    return ready


def _cell(table: TableConfig, index: int, row: RowConfig, steps: Mapping[str, PlannedStep]) -> dict[str, Any]:
    column = table.columns[index]
    places = places_of(column, row)
    reference = row.reference[index] if row.reference else None
    if not places:
        return {"value": None, "reference": reference, "reason": row.absent[column.name]}
    found = mean_of([read_cell(place, steps[place.step]) for place in places], column.independent)
    written = {"of": ", ".join(map(str, places)), "metric": places[0].metric, "reference": reference}
    if found.reason or not math.isfinite(found.value):
        return {**written, "value": None, "reason": found.reason or "not finite: the model collapsed here"}
    return {**written, **_numbers(found, column, reference)}


def _numbers(found: Cell, column: ColumnConfig, reference: float | None) -> dict[str, Any]:
    numbers: dict[str, Any] = {"value": found.value, "low": found.low, "high": found.high}
    if reference is not None and column.comparable:
        numbers["difference"] = found.value - reference
        if found.low < found.high:
            numbers["covered"] = found.low <= reference <= found.high
    return numbers
