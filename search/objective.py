"""The objectives of a search, and the score of a bitmap under them.

An objective is the name of a metric of the evaluation or of a cost of the bitmap; where both have it, the cost is used,
since it is exact. The direction is the metric's own (:mod:`qalof.metrics`): ``f1`` is maximized, ``loss`` and
``weight_bytes`` are minimized.

The law: **a direction that is written must agree with the metric's own**, unless the objective says that it is meant.
``max:f1`` is ``f1``; ``max:loss`` is refused, since it would look for the worst model; ``worst:loss`` looks for it on
purpose.  A metric that is not registered has no direction of its own, so it must be given one: ``max:agreement``.

Only an evaluation knows its metrics, so a wrong metric name shows at the first one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from qalof.bitmap import Bitmap
from qalof.cost import COST_NAMES, Cost
from qalof.errors import BadInputError, nearest_hint
from qalof.evaluation.result import Evaluation
from qalof.metrics import METRICS, Direction, Metric
from search.metric_limit import MetricLimit, broken

WORST = "worst"
_OPPOSITE: dict[Direction, Direction] = {"max": "min", "min": "max"}


@dataclass(frozen=True)
class Objective:
    """A metric or cost to maximize (``max``) or minimize (``min``).

    Raises:
        BadInputError: The direction contradicts the metric's own without ``on_purpose``, or agrees with it although
            ``on_purpose`` says that it does not.
    """

    direction: Direction
    """Which way the value is pushed."""
    name: str
    """The name of the metric or cost."""
    on_purpose: bool = False
    """Whether the worst value is meant to be found: ``worst:NAME``."""

    def __post_init__(self) -> None:
        if self.direction not in _OPPOSITE:
            raise BadInputError(f"an objective's direction must be max or min: got {self.direction!r}")
        own = METRICS[self.name].direction if self.name in METRICS else None
        if self.on_purpose != (own is not None and own != self.direction):
            raise BadInputError(_contradiction(self.direction, self.name, own))

    @classmethod
    def parse(cls, text: str | Objective) -> Objective:
        """Read ``f1``, ``max:f1``, ``min:weight_bytes`` or ``worst:loss``.

        Raises:
            BadInputError: The form is another one, the direction contradicts the metric's, or neither gives a
                direction.
        """
        if isinstance(text, Objective):
            return text
        before, colon, after = (part.strip() for part in text.partition(":"))
        direction, name = (before, after) if colon else ("", before)
        if not name or (colon and direction not in (*_OPPOSITE, WORST)):
            hint = nearest_hint(direction, (*_OPPOSITE, WORST)) if colon and name else "f1 for example"
            raise BadInputError(f"an objective must read like f1, max:f1 or min:weight_bytes: got {text!r}; {hint}")
        own = METRICS[name].direction if name in METRICS else None
        if direction == "max":
            return cls("max", name)
        if direction == "min":
            return cls("min", name)
        if own is None:
            hint = nearest_hint(name, [n for n, metric in METRICS.items() if metric.direction])
            raise BadInputError(f"the direction of {name!r} is not known: write max:{name} or min:{name}; {hint}")
        return cls(_OPPOSITE[own], name, True) if direction == WORST else cls(own, name)

    @property
    def metric(self) -> Metric:
        """The metric that it names, with this objective's direction where the metric is not registered."""
        return METRICS.get(self.name) or Metric(self.name, self.direction, self.name.replace("_", " "))

    @property
    def sign(self) -> int:
        """1 where the value is maximized, -1 where it is minimized: ``sign * value`` is always better when higher."""
        return 1 if self.direction == "max" else -1

    def __str__(self) -> str:
        return f"{WORST if self.on_purpose else self.direction}:{self.name}"

    @property
    def is_cost(self) -> bool:
        """Whether it is known without an evaluation."""
        return self.name in COST_NAMES

    def value(self, evaluation: Evaluation, cost: Cost) -> float:
        """Return the metric or cost of that name.

        Raises:
            BadInputError: Neither the evaluation nor the cost has it.
        """
        if self.is_cost:
            return cost.value(self.name)
        self.check(evaluation.metrics)
        return float(evaluation.metrics[self.name])

    def check(self, metrics: Collection[str]) -> None:
        """Refuse a name that is neither a cost nor among ``metrics``.

        Raises:
            BadInputError: The name is neither.
        """
        if not self.is_cost and self.name not in metrics:
            hint = nearest_hint(self.name, (*metrics, *COST_NAMES))
            raise BadInputError(f"an objective must name a metric or a cost: got {self}; {hint}")


def _contradiction(direction: str, name: str, own: Direction | None) -> str:
    if own is None:
        return f"on_purpose must be False where a metric has no direction to contradict: got True for {name!r}"
    if direction == own:
        return f"on_purpose must be False where the direction is the metric's own: got True for {direction}:{name}"
    side = "higher" if own == "max" else "lower"
    return (
        f"{direction}:{name} would look for the worst {name}, which is better when {side}: "
        f"write {name} or {own}:{name}, or {WORST}:{name} if the worst is meant"
    )


def parse_objectives(objectives: Sequence[str | Objective]) -> tuple[Objective, ...]:
    """Read a list of objectives.

    Raises:
        BadInputError: The list is empty, an objective is named twice, or one has another form.
    """
    if isinstance(objectives, str) or not objectives:
        raise BadInputError(f"objectives must be a list of at least one, such as ('max:f1',): got {objectives!r}")
    parsed = tuple(Objective.parse(text) for text in objectives)
    names = [objective.name for objective in parsed]
    if len(set(names)) < len(names):
        raise BadInputError(f"each objective must be named once: got {', '.join(map(str, parsed))}")
    return parsed


@dataclass(frozen=True)
class Score:
    """A bitmap with its evaluation, its cost and its value under each objective, in their order."""

    bitmap: Bitmap
    evaluation: Evaluation
    cost: Cost
    values: tuple[float, ...]
    violation: float = 0.0
    """The sum of what it lacks to keep the limits on metrics (:mod:`search.metric_limit`); 0 where it keeps them."""
    breaks: str = ""
    """The limits on metrics that it breaks; empty where it keeps them."""

    @classmethod
    def of(
        cls, bitmap: Bitmap, evaluation: Evaluation, cost: Cost, objectives: Sequence[Objective],
        limits: Sequence[MetricLimit] = (),
    ) -> Score:  # fmt: skip
        """Look up the values of the objectives; all are NaN where the evaluation failed, costs included.

        Raises:
            BadInputError: An objective is neither a metric nor a cost.
        """
        if evaluation.failure:
            return cls(bitmap, evaluation, cost, (math.nan,) * len(objectives))
        values = tuple(o.value(evaluation, cost) for o in objectives)
        return cls(bitmap, evaluation, cost, values, *broken(limits, evaluation.metrics))

    def rank(self, name: str, sign: int) -> tuple[float, float]:
        """Return what is higher for the better of two bitmaps: one that keeps the limits on metrics comes before one
        that breaks them, then the higher ``sign`` times the metric ``name``; a failed one comes last.
        """
        if not self.is_finite:
            return -math.inf, -math.inf
        return -self.violation, sign * float(self.evaluation[name])

    @property
    def is_finite(self) -> bool:
        """Whether every value is a number that can be compared; a collapsed model may give NaN."""
        return all(math.isfinite(value) for value in self.values)
