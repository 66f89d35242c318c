"""One-at-a-time sensitivity, from S1 (docs/systems.md): the loss of quality when only one unit is lowered.

From a reference, uniform 8 bits in S1, each unit is set to each lower choice while all others stay.  The drop is the
metric's worsening (:meth:`qalof.metrics.Metric.worsening`): ``reference - lowered`` for metrics that are better when
higher, the reverse for those better when lower.  So a positive drop is always a loss.  Its interval is a paired
bootstrap over the examples: both bitmaps saw the same examples, and most of a metric's spread is between examples,
which cancels. Under limits the reference is projected first, so a lowered reference is within them as well.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qalof.bitmap import Bitmap, LayerBits
from qalof.errors import BadInputError
from qalof.laws import Count, Width
from qalof.metrics import DROP, Metric
from qalof.statistics import Interval, paired_difference
from search.budget import Indices
from search.objective import Score
from search.space import BitmapSpace
from search.strategies.base import Strategy, StrategyContext

GENERATION_SIZE = 8

Target = tuple[int, int]
"""A unit and the choice that it is lowered to."""


@dataclass(frozen=True)
class Sensitivity:
    """The loss of quality when one unit is lowered.

    ``unit``: its name; ``bits``: the layer bits that it was lowered to; ``drops``: metric -> loss with its 95 %
    interval; ``score``: the score of the bitmap with this one change.
    """

    unit: str
    bits: str
    drops: Mapping[str, Interval]
    score: Score

    def as_row(self) -> dict[str, Any]:
        """Return one flat row for a table."""
        row: dict[str, Any] = {"unit": self.unit, "bits": self.bits}
        for metric, drop in self.drops.items():
            row |= drop.to_columns(f"{metric}{DROP}")
        cost = self.score.cost
        return row | {"average_bits": cost.average_bits, "weight_bytes": cost.weight_bytes}


def drop(metric: Metric, reference: Score, lowered: Score) -> float:
    """Return what ``lowered`` loses against ``reference``; positive is worse, whatever the direction of the metric."""
    return metric.worsening(reference.evaluation[metric.name], lowered.evaluation[metric.name])


def drop_interval(metric: Metric, reference: Score, lowered: Score) -> Interval:
    """Return :func:`drop` with a paired bootstrap interval, which has zero width without per-example scores."""
    estimate, name = drop(metric, reference, lowered), metric.name
    pair = reference.evaluation.per_example, lowered.evaluation.per_example
    if any(name not in scores for scores in pair):
        return Interval.exact(estimate)
    first, second = pair if metric.sign > 0 else pair[::-1]
    paired = paired_difference(first[name], second[name])
    return Interval(estimate, paired.low, paired.high)


def rank(sensitivities: Sequence[Sensitivity], metric: str) -> list[dict[str, Any]]:
    """Return rows by ascending drop in ``metric``: the most tolerant unit comes first, ties in the model's order."""
    ranked = sorted(sensitivities, key=lambda found: _sortable(found.drops[metric].estimate))
    return [found.as_row() for found in ranked]


def reference_of(space: BitmapSpace, reference: int | str | LayerBits | None) -> Indices:
    """Return the uniform bitmap at ``reference``, or the most expensive one, projected into the limits.

    Raises:
        BadInputError: The space has no such choice.
    """
    if reference is None:
        indices = [unit.choices - 1 for unit in space.units]
    else:
        indices = [space.find(unit, LayerBits.parse(reference)) for unit in range(len(space.units))]
    return space.budget.lowered(indices)


def targets_below(space: BitmapSpace, reference: Indices) -> list[Target]:
    """Return every step down from the reference, unit by unit, from expensive to cheap."""
    targets = []
    for unit, index in enumerate(reference):
        step = space.budget.lower(unit, index)
        while step is not None:
            targets.append((unit, step))
            step = space.budget.lower(unit, step)
    return targets


def replaced(space: BitmapSpace, indices: Indices, target: Target) -> Bitmap:
    """Return the bitmap of ``indices`` with one unit at another choice."""
    unit, choice = target
    return space.bitmap((*indices[:unit], choice, *indices[unit + 1 :]))


def measure(
    context: StrategyContext, reference: Indices, targets: Sequence[Target], generation_size: int, *, trace: bool
) -> Generator[list[Bitmap], list[Score], dict[Target, float]]:
    """Score the reference and each target from it, and return the drops of the primary metric.

    With ``trace``, the context's trace holds the ranking so far, with intervals, after each generation.
    """
    space, metric = context.space, context.primary_metric().metric
    (origin,) = yield [space.bitmap(reference)]
    drops: dict[Target, float] = {}
    found: list[Sensitivity] = []
    for first in range(0, len(targets), generation_size):
        batch = targets[first : first + generation_size]
        scores = yield [replaced(space, reference, target) for target in batch]
        for target, score in zip(batch, scores, strict=True):
            drops[target] = drop(metric, origin, score)
            if trace:
                found.append(_sensitivity(context, target, origin, score))
                context.trace[:] = rank(found, metric.name)
    return drops


def one_at_a_time(
    context: StrategyContext,
    *,
    reference: Width | str | LayerBits | None = None,
    to: Sequence[Width | str | LayerBits] | None = None,
    generation_size: Count = GENERATION_SIZE,
) -> Strategy:
    """Rank the units by the loss when only one of them is lowered; the trace holds the ranking.

    Args:
        context: space, objectives and seed.
        reference: the layer bits of the reference; None takes the most expensive choice.
        to: the layer bits to lower to; None takes every lower choice.
        generation_size: the number of units in a generation.

    Raises:
        BadInputError: The space does not have some layer bits, or they are above the reference.
    """
    start = reference_of(context.space, reference)
    targets = targets_below(context.space, start)
    if to is not None:
        targets = _chosen(context.space, targets, to)
    yield from measure(context, start, targets, generation_size, trace=True)


def _sensitivity(context: StrategyContext, target: Target, origin: Score, score: Score) -> Sensitivity:
    metrics = [context.metric_of(name) for name in origin.evaluation.metrics]
    drops = {metric.name: drop_interval(metric, origin, score) for metric in metrics if metric.direction}
    return Sensitivity(context.space.units[target[0]].name, context.space.label(*target), drops, score)


def _chosen(space: BitmapSpace, targets: list[Target], to: Sequence[int | str | LayerBits]) -> list[Target]:
    layers = [LayerBits.parse(bits) for bits in to]
    wanted = {(unit, space.find(unit, layer)) for unit in range(len(space.units)) for layer in layers}
    chosen = [target for target in targets if target in wanted]
    if not chosen:
        raise BadInputError(f"to must name layer bits below the reference: got {', '.join(map(str, layers))}")
    return chosen


def _sortable(drop: float) -> float:
    # NaN means a collapse, so the unit is the most sensitive of all
    return drop if drop == drop else float("inf")
