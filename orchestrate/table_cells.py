"""Reading one cell of a table from the run directory of its step; :mod:`orchestrate.table_config` lists what there is.

A drop is the mean over the chosen units of what lowering each alone loses; its interval is a bootstrap over examples
of the per-example means, since every unit was scored on the same ones.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrate.config import TrainConfig
from orchestrate.loss_record import LOSSES, training_loss
from orchestrate.plan import PlannedStep
from orchestrate.run_directory import read_result
from orchestrate.table_attack_cells import attack_cell
from orchestrate.table_cell import Cell
from orchestrate.table_check import AT, bitmap_specs
from orchestrate.table_config import Place
from orchestrate.train_job import CHECKPOINT
from qalof.bitmap import Bitmap, block_name
from qalof.checkpoints import load
from qalof.errors import BadInputError
from qalof.files import read_whole_lines
from qalof.metrics import DROP, metric_of
from qalof.statistics import bootstrap_mean
from search import SearchResult
from search.scores.output_error import SENSITIVITY_JSON, read_errors

RECORD = "evaluations.jsonl"
MINUS = " minus "


def read_cell(place: Place, step: PlannedStep) -> Cell:
    """The number at ``place`` in the finished run of ``step``.

    Raises:
        BadInputError: a file is missing or damaged, or does not hold it.
    """
    try:
        return _reader(place, step)(place, step)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BadInputError(
            f"{step.folder} must hold {place.of}/{place.metric} for the table: {type(error).__name__}: {error}; "
            "delete it and run the step again"
        ) from None


def _reader(place: Place, step: PlannedStep) -> Callable[[Place, PlannedStep], Cell]:
    if step.command == "train" and place.of in _OF_TRAINING:
        return _OF_TRAINING[place.of]
    return _READERS.get(step.command, _scored)


def _scored(place: Place, step: PlannedStep) -> Cell:
    position = [str(spec) for spec in bitmap_specs(step)].index(place.of)
    row = read_result(step.folder / "result.json")["rows"][position]
    if place.metric in row["metrics"]:
        value, low, high = row["metrics"][place.metric]
        return Cell.none("not finite: the model collapsed here") if value is None else Cell(value, low, high)
    if place.metric in row["cost"]:
        return Cell.sure(row["cost"][place.metric])
    return Cell.none("not measured: this model has no such figure")


def _training_loss(place: Place, step: PlannedStep) -> Cell:
    assert isinstance(step.config, TrainConfig)
    found = training_loss(step.folder / LOSSES, step.config.training.steps)
    value = found[{"loss": "cross_entropy"}.get(place.metric, place.metric)]
    return Cell.none("trained before the optimized loss was kept: train again") if value is None else Cell.sure(value)


def _parameters(place: Place, step: PlannedStep) -> Cell:
    model = load(step.folder / CHECKPOINT)
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for group in model.trainable_groups().values() for p in group.values())
    return Cell.sure({"total": total, "trainable": trainable, "frozen": total - trainable}[place.metric])


def _dropped(place: Place, step: PlannedStep) -> Cell:
    if (step.folder / SENSITIVITY_JSON).is_file():
        units, _, bits = place.of.partition(AT)
        errors = read_errors(step.folder / SENSITIVITY_JSON, place.metric)
        return Cell.sure(float(np.mean([errors[unit][bits] for unit in select(units, list(errors))])))
    metric = place.metric.removesuffix(DROP)
    reference, lowered = _lowered(step, metric)
    chosen, _, against = place.of.partition(MINUS)
    drops = _mean_drop(chosen, reference, lowered)
    if against:
        drops = drops - _mean_drop(against, reference, lowered)
    interval = bootstrap_mean(list(metric_of(metric).sign * drops))
    return Cell(interval.estimate, interval.low, interval.high)


Scores = NDArray[np.float64]


def _lowered(step: PlannedStep, metric: str) -> tuple[Scores, dict[str, Scores]]:
    """Per-example scores at the reference, and with each unit lowered, by the unit's name."""
    bits: int = step.config.reference  # type: ignore[attr-defined]
    by_block = step.config.unit == "block"  # type: ignore[attr-defined]
    reference: Scores | None = None
    units: dict[str, Scores] = {}
    for line in map(json.loads, filter(None, read_whole_lines(step.folder / RECORD))):
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
        raise BadInputError(f"{step.folder / RECORD} must hold the reference at {bits} bits: it does not")
    return reference, units


def _mean_drop(chosen: str, reference: Scores, units: Mapping[str, Scores]) -> Scores:
    taken = select(chosen, list(units))
    drops: Scores = reference - np.mean([units[name] for name in taken], axis=0)
    return drops


def select(chosen: str, units: Sequence[str]) -> list[str]:
    """The units that a table's words choose: ``late``, ``rest``, or patterns with ``|`` between.

    Raises:
        BadInputError: none are.
    """
    if chosen in ("late", "rest"):
        blocks = list(dict.fromkeys(block_name(unit) for unit in sorted(units, key=_natural)))
        late = set(blocks[-max(1, round(len(blocks) / 3)) :])
        taken = [unit for unit in units if (block_name(unit) in late) == (chosen == "late")]
    else:
        taken = [unit for unit in units if any(fnmatchcase(unit, pattern) for pattern in chosen.split("|"))]
    if not taken:
        raise BadInputError(f"a table's units must match some: {chosen!r} matches none of {', '.join(units[:4])} ...")
    return taken


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _searched(place: Place, step: PlannedStep) -> Cell:
    found = SearchResult.load(step.folder)
    if place.of == "trace":
        kept = [row for row in found.trace if row.get("accepted")]
        return Cell.sure(len(kept) if place.metric == "kept" else len(found.trace))
    first = max(found.points, key=lambda point: point.cost.average_bits)
    kept_rows = [row for row in found.trace if row.get("accepted")]
    point = first
    if place.of == "final" and kept_rows:
        # steps only go down, so that the last one kept is the only point of its size
        size = kept_rows[-1]["weight_bytes"]
        point = next(each for each in found.points if each.cost.weight_bytes == size and _same(each, kept_rows[-1]))
    if place.metric in point.metrics:
        interval = point.metrics[place.metric]
        return Cell(interval.estimate, interval.low, interval.high)
    return Cell.sure(point.value(place.metric))


def _same(point: Any, row: Mapping[str, Any]) -> bool:
    return all(math.isclose(point.metrics[name].estimate, row[name]) for name in point.metrics if name in row)


_OF_TRAINING: Mapping[str, Callable[[Place, PlannedStep], Cell]] = {
    "training": _training_loss,
    "parameters": _parameters,
}
_READERS: Mapping[str, Callable[[Place, PlannedStep], Cell]] = {
    "sensitivity": _dropped,
    "search": _searched,
    "attack": attack_cell,
}
