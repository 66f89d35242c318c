"""Comparisons that may be claimed, since they are paired over the same examples and have an interval.

Two bitmaps, or two models, that were scored on the same examples differ by the mean of the per-example differences;
most of a metric's spread is between examples, so it cancels.  A difference is *shown* if its 95 % interval excludes
zero.  Nothing here corrects for how many comparisons are made; the page says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any

from orchestrate.document.record import Record, Step
from orchestrate.jobs.shared.findings import Scored, scored_of
from qalof.evaluation.result import Evaluation
from qalof.metrics import is_percent, metric_of
from qalof.statistics import Interval, paired_difference
from search.point import Point

TOLERANCE = 1.0
"""How many points (of percent) below the best still count as nearly as good."""


@dataclass(frozen=True)
class Comparison:
    """A paired difference in ``metric``, ``after`` - ``before``, of two bitmaps or of two models at ``bitmap``."""

    after: str
    before: str
    bitmap: str
    metric: str
    difference: Interval

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero."""
        return is_shown(self.difference)


def is_shown(difference: Interval) -> bool:
    """Return whether an interval excludes zero."""
    return difference.low > 0 or difference.high < 0


def paired(after: Evaluation | None, before: Evaluation | None, metric: str) -> Interval | None:
    """Return the paired difference; None where one side lacks finite scores per example, or the examples differ."""
    if after is None or before is None:
        return None
    first, second = after.per_example.get(metric), before.per_example.get(metric)
    if not first or not second or len(first) != len(second):
        return None
    levels = after.metrics.get(metric, math.nan), before.metrics.get(metric, math.nan)
    if not all(map(math.isfinite, (*levels, *first, *second))):
        return None
    return _difference(tuple(first), tuple(second))


@lru_cache(maxsize=1024)
def _difference(first: tuple[float, ...], second: tuple[float, ...]) -> Interval:
    """Return a difference, once: sentences, tables and answers ask for it, and its bootstrap takes longest of all."""
    return paired_difference(first, second)


def between_bitmaps(scored: Scored, metric: str) -> list[Comparison]:
    """Compare every other bitmap of one model with the one with the most bits."""
    top = scored.reference
    found = []
    for index, point in enumerate(scored.points):
        interval = paired(scored.evaluations[index], scored.evaluations[top], metric) if index != top else None
        if interval is not None:
            reference = str(scored.points[top].bitmap)
            found.append(Comparison(str(point.bitmap), reference, str(point.bitmap), metric, interval))
    return found


def between_models(after: Step, before: Step) -> list[Comparison]:
    """Compare one model with another at every bitmap that both were scored at."""
    later, earlier = scored_of(after), scored_of(before)
    if later is None or earlier is None:
        return []
    others = {point.bitmap: index for index, point in enumerate(earlier.points)}
    found = []
    for index, point in enumerate(later.points):
        if point.bitmap in others:
            twin = earlier.evaluations[others[point.bitmap]]
            interval = paired(later.evaluations[index], twin, later.metric)
            if interval is not None:
                found.append(Comparison(after.name, before.name, str(point.bitmap), later.metric, interval))
    return found


def comparable_models(record: Record, step: Step) -> list[Step]:
    """Return the earlier steps that scored another model on the same examples of the same task."""
    key = examples_of(record, step)
    earlier = record.steps[: record.steps.index(step)]
    if key is None or scored_of(step) is None:
        return []
    return [
        other
        for other in earlier
        if scored_of(other) is not None and examples_of(record, other) == key and other.checkpoint != step.checkpoint
    ]


def examples_of(record: Record, step: Step) -> str | None:
    """Return what decides which examples a step was scored on: the task, its settings and the limit; None if they are
    not known.
    """
    trained = trained_by(record, step)
    if trained is None:
        return None
    task: Any = step.config.get("task") or trained.config.get("task")
    return json.dumps([task, limit_of(step)], sort_keys=True) if task else None


def trained_by(record: Record, step: Step) -> Step | None:
    """Return the training step from which a step's model comes; a training step is its own."""
    if step.checkpoint is None:
        return None
    return next((s for s in record.steps if s.command == "train" and s.checkpoint == step.checkpoint), None)


def limit_of(step: Step) -> int | None:
    """Return how many validation examples a step takes; None stands for all."""
    section: Any = step.config.get("evaluation", {}) if step.command == "train" else step.config
    limit: int | None = section.get("limit")
    return limit


def first_examples(evaluation: Evaluation, count: int) -> Evaluation:
    """Return an evaluation of the first ``count`` examples only, with the metrics that have scores of examples."""
    scores, weights = {}, {}
    for name, values in evaluation.per_example.items():
        share = 1.0
        if name in evaluation.weights:  # scores are scaled to the weights of all examples
            weights[name] = evaluation.weights[name][:count]
            share = fmean(weights[name]) / fmean(evaluation.weights[name])
        if len(values) >= count and share > 0:
            scores[name] = [value / share for value in values[:count]]
    metrics = {name: sum(values) / count for name, values in scores.items()}
    return Evaluation(metrics, count, scores, weights={name: weights[name] for name in scores if name in weights})


def cheapest_within(points: Sequence[Point], metric: str, tolerance: float = TOLERANCE) -> tuple[int, int] | None:
    """Return the positions of the best point and of the cheapest whose estimate lies at most ``tolerance`` points
    below.

    A metric that is not in percent gives None, since a point means nothing for it.  "Below" is on the worse side.
    """
    if not is_percent(metric):
        return None
    usable = [i for i, point in enumerate(points) if math.isfinite(point.metrics[metric].estimate)]
    if not usable:
        return None

    def value(index: int) -> float:
        return metric_of(metric).sign * points[index].metrics[metric].estimate

    def price(index: int) -> tuple[float, int, float]:
        cost = points[index].cost
        return cost.average_bits, cost.weight_bytes, -value(index)

    best = max(usable, key=lambda index: (value(index), -points[index].cost.average_bits))
    return best, min((i for i in usable if value(i) >= value(best) - tolerance), key=price)
