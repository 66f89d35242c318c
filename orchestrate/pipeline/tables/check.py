"""Whether a table's cells will all be there: found before anything runs, from the steps' configs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrate.config.train import TrainConfig
from orchestrate.document.planned_step import PlannedStep, bitmap_specs, owner_of
from orchestrate.document.table_config import Place, RowConfig, TableConfig, places_of
from orchestrate.jobs.attack.cells import offered
from orchestrate.jobs.attack.config import AttackConfig
from orchestrate.jobs.evaluate.config import EvaluateConfig
from orchestrate.jobs.profile import job as footprint_job
from orchestrate.jobs.sensitivity.config import SensitivityConfig
from qalof.cost import COST_NAMES
from qalof.errors import BadInputError, nearest_hint
from qalof.metrics import DROP
from qalof.tasks.factory import TASKS
from search.scores.output_error import OutputError

PARAMETERS = ("total", "trainable", "frozen")

OF_TRAINING = ("loss", "objective")

AT = " at "

TRACE = ("tried", "kept")


def check_table(table: TableConfig, steps: Sequence[PlannedStep]) -> None:
    """Every cell has a place, and something will be there.

    Raises:
        BadInputError: names the row, the column and the way out.
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
            f"table row {row.name!r} must have one reference a column, null for none: got {len(row.reference)} "
            f"for {len(columns)}"
        )


def _check_place(place: Place, steps: Mapping[str, PlannedStep], where: str) -> None:
    if place.step not in steps:
        raise BadInputError(f"{where}: there is no step {place.step!r}; {nearest_hint(place.step, steps)}")
    known, metrics = _offered(steps[place.step], place.of, list(steps.values()))
    if known is not None and place.of not in known:
        raise BadInputError(
            f"{where}: step {place.step} has {', '.join(known)}: got {place.of!r}; {nearest_hint(place.of, known)}"
        )
    if place.metric not in metrics:
        raise BadInputError(
            f"{where}: {place.step}/{place.of} has no {place.metric!r}; {nearest_hint(place.metric, metrics)}"
        )


def _offered(step: PlannedStep, of: str, steps: Sequence[PlannedStep]) -> tuple[list[str] | None, Sequence[str]]:
    """What may stand in the middle (None: anything), and which metrics go with ``of``."""
    bitmaps = [str(spec) for spec in bitmap_specs(step)]
    match step.command, of:
        case "train", "training":
            return None, OF_TRAINING
        case "train", "parameters":
            return None, PARAMETERS
        case "footprint", _:
            return bitmaps, (*footprint_job.METRICS, *COST_NAMES)
        case "attack", _:
            assert isinstance(step.config, AttackConfig)
            return offered(step.config, of)
        case "search", "trace":
            return None, TRACE
    if isinstance(step.config, SensitivityConfig) and step.config.score == "output_error":
        units = of.partition(AT)[0]
        return [f"{units}{AT}{bits}" for bits in step.config.lowered], list(OutputError.__dataclass_fields__)
    metrics = task_metrics(step, steps)
    if step.command == "sensitivity":
        return None, [f"{metric}{DROP}" for metric in metrics]
    if step.command == "search":
        return ["start", "final", "trace"], (*metrics, *COST_NAMES)
    return bitmaps, (*metrics, *COST_NAMES)


def task_metrics(step: PlannedStep, steps: Sequence[PlannedStep]) -> tuple[str, ...]:
    """The metrics of the task that a step scores.

    Raises:
        BadInputError: a step on a checkpoint that no step trains.
    """
    config: Any = step.config
    task = config.task if isinstance(config, TrainConfig | EvaluateConfig) else None
    if task is None:
        owner = owner_of(step, steps)
        if owner is None:
            raise BadInputError(f"a table's steps must work on checkpoints of its own steps: got {config.checkpoint!r}")
        return task_metrics(owner, steps)
    metrics: tuple[str, ...] = TASKS[task.name][0].metrics
    return metrics
