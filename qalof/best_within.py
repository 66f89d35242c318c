"""The best of what a search has scored, within a budget: one rule for results, judgements and files.

A point counts where every value of its objectives is a number, so a collapsed model is never the best one, not even by
its bytes.  Of equal ones the one with fewer weight bytes is taken, and of those the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from qalof.metrics import metric_of

T = TypeVar("T")


def sign_of(objective: str) -> int:
    """Return 1 where an objective as a result stores it, such as ``min:loss`` or ``worst:loss``, is maximized, and -1
    where it is minimized.
    """
    direction, _, name = objective.partition(":")
    if direction == "worst":
        return -metric_of(name).sign
    return 1 if direction == "max" else -1


def scored(points: Iterable[T], values: Callable[[T], Sequence[float | None]]) -> list[T]:
    """Return the points whose objectives all have a finite value; None stands for one that is not."""
    return [point for point in points if all(value is not None and math.isfinite(value) for value in values(point))]


def best_within(
    points: Iterable[T],
    budget: Mapping[str, float],
    *,
    values: Callable[[T], Sequence[float | None]],
    cost: Callable[[T, str], float],
    sign: int,
    position: int = 0,
) -> T | None:
    """Return the best of these points within a budget; None where none is within it.

    Args:
        points: in the order in which they were scored.
        budget: cost name -> greatest allowed value.
        values: the values of a point's objectives.
        cost: a point's cost of a name.
        sign: 1 where the objective is maximized, -1 where it is minimized.
        position: which objective decides.
    """
    within = [p for p in scored(points, values) if all(cost(p, name) <= limit for name, limit in budget.items())]

    def rank(point: T) -> tuple[float, float]:
        value = values(point)[position]
        assert value is not None
        return -sign * value, cost(point, "weight_bytes")

    return min(within, key=rank, default=None)
