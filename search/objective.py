"""What a search is after, and the score of a bitmap under it.

An objective is a direction and a name, written ``max:f1`` or ``min:weight_bytes``.  The name is a metric of
the evaluation or a cost of the bitmap; where both have it, the cost wins, since it is exact.  Only an
evaluation knows its metrics, so a wrong metric name shows at the first one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from qalof.bitmap import Bitmap
from qalof.cost import COST_NAMES, Cost
from qalof.errors import BadInputError, nearest_hint
from qalof.evaluation.result import Evaluation

Direction = Literal["max", "min"]

LOWER_IS_BETTER = ("loss", "perplexity", "word_perplexity", *COST_NAMES)
"""Names that are better when lower, for reports on metrics that no objective names."""


@dataclass(frozen=True)
class Objective:
    """A metric or cost to push up (``max``) or down (``min``)."""

    direction: Direction
    name: str

    @classmethod
    def parse(cls, text: str | Objective) -> Objective:
        """Read ``max:f1`` or ``min:weight_bytes``.

        Raises:
            BadInputError: another form or direction.
        """
        if isinstance(text, Objective):
            return text
        direction, colon, name = (part.strip() for part in text.partition(":"))
        if direction == "max" and name:
            return cls("max", name)
        if direction == "min" and name:
            return cls("min", name)
        hint = f"did you mean 'max:{direction}'?" if not colon else nearest_hint(direction, ("max", "min"))
        raise BadInputError(f"an objective must read like max:f1 or min:weight_bytes: got {text!r}; {hint}")

    def __str__(self) -> str:
        return f"{self.direction}:{self.name}"

    @property
    def is_cost(self) -> bool:
        """Whether it is known without an evaluation."""
        return self.name in COST_NAMES

    def value(self, evaluation: Evaluation, cost: Cost) -> float:
        """The metric or cost of that name.

        Raises:
            BadInputError: neither the evaluation nor the cost has it.
        """
        if self.is_cost:
            return cost.as_metrics()[self.name]
        self.check(evaluation.metrics)
        return float(evaluation.metrics[self.name])

    def check(self, metrics: Collection[str]) -> None:
        """Refuse a name that is neither a cost nor among ``metrics``.

        Raises:
            BadInputError: it is not.
        """
        if not self.is_cost and self.name not in metrics:
            hint = nearest_hint(self.name, (*metrics, *COST_NAMES))
            raise BadInputError(f"an objective must name a metric or a cost: got {self}; {hint}")


def parse_objectives(objectives: Sequence[str | Objective]) -> tuple[Objective, ...]:
    """Read a list of objectives.

    Raises:
        BadInputError: none, one named twice, or one in another form.
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

    @classmethod
    def of(cls, bitmap: Bitmap, evaluation: Evaluation, cost: Cost, objectives: Sequence[Objective]) -> Score:
        """Look up the objectives' values.

        Raises:
            BadInputError: an objective that is neither a metric nor a cost.
        """
        return cls(bitmap, evaluation, cost, tuple(o.value(evaluation, cost) for o in objectives))

    @property
    def is_finite(self) -> bool:
        """Whether every value is a number that can be compared; a collapsed model may give NaN."""
        return all(math.isfinite(value) for value in self.values)
