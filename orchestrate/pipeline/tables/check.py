"""A check that a table's cells will all be there, made before anything runs, from the steps' configs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrate.document.planned_step import PlannedStep, owner_of
from orchestrate.document.table_config import Place, RowConfig, TableConfig, places_of
from orchestrate.jobs.registry import JOBS
from qalof.errors import BadInputError, nearest_hint
from qalof.metrics import described
from qalof.tasks.factory import TASKS


def check_table(table: TableConfig, steps: Sequence[PlannedStep]) -> None:
    """Check that every cell has a place, and that a number will be there.

    Raises:
        BadInputError: a cell cannot be filled; the error names the row, the column and the way out.
    """
    by_name = {step.name: step for step in steps}
    names = [column.name for column in table.columns]
    for row in table.rows:
        _check_row(row, names)
        for column in table.columns:
            for place in places_of(column, row):
                _check_place(place, by_name, f"table row {row.name!r}, column {column.name!r}")


def _check_row(row: RowConfig, columns: Sequence[str]) -> None:
    for name in row.absent:
        if name not in columns:
            raise BadInputError(
                f"table row {row.name!r} must name columns: got {name!r}; {nearest_hint(name, columns)}"
            )
    if row.reference is not None and len(row.reference) != len(columns):
        raise BadInputError(
            f"table row {row.name!r} must have one reference per column, null for none: got {len(row.reference)} "
            f"for {len(columns)}"
        )


def _check_place(place: Place, steps: Mapping[str, PlannedStep], where: str) -> None:
    if place.step not in steps:
        raise BadInputError(f"{where}: there is no step {place.step!r}; {nearest_hint(place.step, steps)}")
    step = steps[place.step]
    known, metrics = JOBS[step.command].offers(step, place.of, lambda: task_metrics(step, list(steps.values())))
    if known is not None and place.of not in known:
        raise BadInputError(
            f"{where}: step {place.step} has {', '.join(known)}: got {place.of!r}; {nearest_hint(place.of, known)}"
        )
    if place.metric not in metrics:
        raise BadInputError(
            f"{where}: {place.step}/{place.of} has no {place.metric!r}; {nearest_hint(place.metric, metrics)}"
        )


def task_metrics(step: PlannedStep, steps: Sequence[PlannedStep]) -> tuple[str, ...]:
    """Find the metrics that a step scores its task by; those on request count where the step asks for them.

    Raises:
        BadInputError: the step works on a checkpoint that no step trains.
    """
    config: Any = step.config
    asked = [
        *getattr(config, "on_request", []),
        *(getattr(config, "objectives", None) or []),
        getattr(config, "metric", None),
    ]
    named = {str(one).rpartition(":")[2] for one in asked}
    return tuple(name for name in _all_metrics(step, steps) if name in named or not described(name).on_request)


def _all_metrics(step: PlannedStep, steps: Sequence[PlannedStep]) -> tuple[str, ...]:
    """Find the metrics of the task that a step scores.

    Raises:
        BadInputError: the step works on a checkpoint that no step trains.
    """
    config: Any = step.config
    task = getattr(config, "task", None)
    if task is None:
        owner = owner_of(step, steps)
        if owner is None:
            raise BadInputError(f"a table's steps must work on checkpoints of its own steps: got {config.checkpoint!r}")
        return _all_metrics(owner, steps)
    metrics: tuple[str, ...] = TASKS[task.name][0].metrics
    return metrics
