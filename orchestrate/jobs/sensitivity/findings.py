"""What ``sensitivity`` found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrate.document.record import Step
from orchestrate.jobs.sensitivity.output_error_view import OutputErrors, output_errors
from orchestrate.jobs.sensitivity.table_view import TableScores, table_findings
from orchestrate.runs.layout import RESULT
from qalof.errors import BadInputError
from qalof.metrics import DROP
from qalof.statistics import Interval


@dataclass(frozen=True)
class Drop:
    """What is lost when ``unit`` alone is reduced to ``bits``; a positive ``drop`` is a loss."""

    unit: str
    bits: str
    drop: Interval
    average_bits: float
    weight_bytes: int


@dataclass(frozen=True)
class Ranked:
    """What ``sensitivity`` found: the ``drops`` of ``metric`` from the most tolerant unit on, and its level at the
    ``reference`` of ``bits``.
    """

    metric: str
    bits: str
    reference: Interval
    drops: tuple[Drop, ...]


def ranked_of(step: Step) -> Ranked | None:
    """Return the findings of a step, if they are a ranking by a metric."""
    return step.findings if isinstance(step.findings, Ranked) else None


def ranked(folder: Path, result: Mapping[str, Any]) -> Ranked | OutputErrors | TableScores:
    """Read the result of a sensitivity analysis, by metric, by output error, or of tables of scores.

    Raises:
        BadInputError: it ranks nothing, or a table is missing or damaged.
    """
    if isinstance(result.get("score"), list):
        return table_findings(folder, result)
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
        raise BadInputError(f"result file {folder / RESULT} must rank at least one unit: it ranks none")
    return Ranked(metric, str(reference["bits"]), Interval.from_json(reference[metric]), drops)
