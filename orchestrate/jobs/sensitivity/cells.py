"""Cells of a table from a ``sensitivity`` step.

A drop is the mean over the chosen units of what is lost when each alone is reduced.  Its interval is a bootstrap over
examples of the means of each example, since every unit was scored on the same examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from orchestrate.document.cell import Cell
from orchestrate.document.findings import recorded
from orchestrate.document.formats import natural
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.table_config import Place
from orchestrate.jobs.base import Offer
from orchestrate.jobs.sensitivity.config import SensitivityConfig
from orchestrate.runs.layout import EVALUATION_RECORD
from qalof.bitmap import Bitmap, block_name
from qalof.errors import BadInputError
from qalof.metrics import DROP, metric_of
from qalof.statistics import bootstrap_mean
from search.scores.output_error import SENSITIVITY_JSON, OutputError, read_errors

MINUS = " minus "
AT = " at "


def offered(step: PlannedStep, of: str, metrics: Callable[[], Sequence[str]]) -> Offer:
    """Say what may stand in the middle of a cell, and the metrics that go with it."""
    assert isinstance(step.config, SensitivityConfig)
    if step.config.score == "output_error":
        units = of.partition(AT)[0]
        return [f"{units}{AT}{bits}" for bits in step.config.reduced], list(OutputError.__dataclass_fields__)
    if step.config.tables:
        return [], []  # a table of scores is for a search, and no cell takes a number from it
    return None, [f"{metric}{DROP}" for metric in metrics()]


def drop_cell(place: Place, step: PlannedStep) -> Cell:
    """Average over units what is lost when each alone is reduced, or average their output errors."""
    if (step.folder / SENSITIVITY_JSON).is_file():
        units, _, bits = place.of.partition(AT)
        errors = read_errors(step.folder / SENSITIVITY_JSON, place.metric)
        return Cell.sure(float(np.mean([errors[unit][bits] for unit in select(units, list(errors))])))
    metric = place.metric.removesuffix(DROP)
    reference, reduced = _reduced(step, metric)
    chosen, _, against = place.of.partition(MINUS)
    drops = _mean_drop(chosen, reference, reduced)
    if against:
        drops = drops - _mean_drop(against, reference, reduced)
    interval = bootstrap_mean(list(metric_of(metric).sign * drops))
    return Cell(interval.estimate, interval.low, interval.high)


Scores = NDArray[np.float64]


def _reduced(step: PlannedStep, metric: str) -> tuple[Scores, dict[str, Scores]]:
    """Return the scores per example at the reference, and with each unit reduced, by the unit's name."""
    bits: int = step.config.reference  # type: ignore[attr-defined]
    by_block = step.config.unit == "block"  # type: ignore[attr-defined]
    reference: Scores | None = None
    units: dict[str, Scores] = {}
    for line in recorded(step.folder / EVALUATION_RECORD):
        changed = [site for site, layer in Bitmap.from_json(line["bitmap"]).items() if layer.weight != bits]
        # a metric that is no mean over examples, such as a perplexity, has one value and no spread
        found = line["evaluation"]
        kept = found["per_example"]
        scores = np.asarray(kept[metric] if metric in kept else [found["metrics"][metric]], dtype=np.float64)
        if changed:
            units[block_name(changed[0]) if by_block else changed[0]] = scores
        else:
            reference = scores
    if reference is None:
        raise BadInputError(f"{step.folder / EVALUATION_RECORD} must hold the reference at {bits} bits: it does not")
    return reference, units


def _mean_drop(chosen: str, reference: Scores, units: Mapping[str, Scores]) -> Scores:
    taken = select(chosen, list(units))
    drops: Scores = reference - np.mean([units[name] for name in taken], axis=0)
    return drops


def select(chosen: str, units: Sequence[str]) -> list[str]:
    """Return the units that a table's words choose: ``late``, ``rest``, or patterns with ``|`` between.

    Raises:
        BadInputError: the words choose no unit.
    """
    if chosen in ("late", "rest"):
        blocks = list(dict.fromkeys(block_name(unit) for unit in sorted(units, key=natural)))
        late = set(blocks[-max(1, round(len(blocks) / 3)) :])
        taken = [unit for unit in units if (block_name(unit) in late) == (chosen == "late")]
    else:
        taken = [unit for unit in units if any(fnmatchcase(unit, pattern) for pattern in chosen.split("|"))]
    if not taken:
        raise BadInputError(f"a table's units must match some: {chosen!r} matches none of {', '.join(units[:4])} ...")
    return taken
