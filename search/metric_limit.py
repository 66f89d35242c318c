"""Limits on metrics, such as ``{"adversarial_accuracy": 0.6}``.

A limit on a cost is known to be kept before anything is evaluated, so no bitmap that breaks one is ever scored
(:mod:`search.budget`).  A limit on a metric shows only once the bitmap has been scored.  Such a bitmap then counts as
an evaluation, and it is on no front, never the best and never the parent of another one where a strategy has a bitmap
that keeps the limits.  Of two that break them, the one that breaks them less comes first (Deb 2000).

The direction is the metric's own: what is better when higher has a least value, everything else a greatest one.  A
limit on a metric in percent is a share between 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from qalof.cost import COST_NAMES
from qalof.errors import BadInputError, nearest_hint
from qalof.metrics import METRICS, metric_of


@dataclass(frozen=True)
class MetricLimit:
    """The least or greatest value of a metric.

    Raises:
        BadInputError: The metric is not registered, has no direction, or cannot have that value.
    """

    name: str
    """The name of the metric."""
    bound: float
    """The value that is just allowed; a share between 0 and 1 for a metric in percent."""

    def __post_init__(self) -> None:
        metric, bound = metric_of(self.name), self.bound
        assert metric.sign  # refuses a metric that is better neither way
        if metric.is_percent and not 0 <= bound <= 1:
            way_out = f"; {bound / 100:g} is {bound:g} %" if 1 < bound <= 100 else "; 0.6 is 60 %"
            raise BadInputError(f"a limit on {self.name} must be a share between 0 and 1: got {bound:g}{way_out}")
        if not math.isfinite(bound):
            raise BadInputError(f"a limit on {self.name} must be a finite number: got {bound}")

    def excess(self, value: float) -> float:
        """Return by how much a metric's ``value`` breaks the limit, as the limit counts; 0 where it is kept."""
        metric = metric_of(self.name)
        share = value / 100 if metric.is_percent else value
        return max(0.0, metric.sign * (self.bound - share))

    def check(self, metrics: Collection[str]) -> None:
        """Refuse a limit on what is not among ``metrics``.

        Raises:
            BadInputError: The name is not.
        """
        if self.name not in metrics:
            hint = nearest_hint(self.name, (*metrics, *COST_NAMES))
            raise BadInputError(f"a limit must name a cost or a metric that is measured: got {self.name}; {hint}")

    def __str__(self) -> str:
        return f"{self.name} {'>=' if metric_of(self.name).sign > 0 else '<='} {self.bound:g}"


def parted(limits: Mapping[str, float] | None) -> tuple[dict[str, float], tuple[MetricLimit, ...]]:
    """Return the limits on costs, and those on metrics; a name that is neither stays with the costs, which refuse it.

    Raises:
        BadInputError: See :class:`MetricLimit`.
    """
    given = limits or {}
    metrics = [name for name in given if name in METRICS and name not in COST_NAMES and METRICS[name].direction]
    costs = {name: limit for name, limit in given.items() if name not in metrics}
    return costs, tuple(MetricLimit(name, given[name]) for name in metrics)


def broken(limits: Iterable[MetricLimit], metrics: Mapping[str, float]) -> tuple[float, str]:
    """Return by how much ``metrics`` break the limits, added up, and which ones, in words; 0 and nothing where all are
    kept.
    """
    excesses = {str(limit): limit.excess(metrics[limit.name]) for limit in limits}
    return sum(excesses.values()), ", ".join(name for name, excess in excesses.items() if excess)
