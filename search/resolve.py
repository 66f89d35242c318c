"""How many examples an evaluation needs so a difference between bitmaps shows, from the noise that is measured.

Two bitmaps that a search would compare are evaluated on a few examples: a uniform one, and the same with every tenth
unit moved one step.  With d the paired differences of their scores by example, s(d) their standard deviation and m the
metric's value, a difference of a share r of m is two standard errors of n examples where

    2 s(d) / sqrt(n) = r m        so        n = (2 s(d) / (r m))^2 .

Bitmaps that differ at more units have more noise, and those of a late stage of a search less; this is its middle.
Choosing on too few examples overfits to them (docs/methods/guided_search.md, "What was rejected").
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from search.evaluator import Evaluator, measuring
from search.objective import Objective, parse_objectives
from search.space import BitmapSpace

PILOT = 32
"""How many examples the noise is measured on, unless told otherwise."""
EVERY = 10
"""One unit in so many differs between the two bitmaps, at least two units where there are two."""
STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Resolution:
    """A number of examples, and what it was chosen from."""

    metric: str
    """The metric whose differences are to show."""
    share: float
    """The difference that is to show, as a share of the metric's value."""
    pilot: int
    """The examples on which the noise was measured."""
    deviation: float
    """The standard deviation of the paired differences, as a share of the metric's value."""
    examples: int
    """How many examples are scored."""

    @property
    def resolved(self) -> float:
        """The share that so many examples resolve; above :attr:`share` where there are too few."""
        return STANDARD_ERRORS * self.deviation / math.sqrt(self.examples)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict of all fields, and of what is resolved."""
        return asdict(self) | {"resolved": self.resolved}

    @property
    def text(self) -> str:
        """The choice in one sentence."""
        asked = f", and not the {100 * self.share:.3g} % that were asked for"
        few = "" if self.resolved <= self.share * 1.0001 else asked
        return (
            f"{self.examples} examples are scored, on which a difference of {100 * self.resolved:.3g} % in "
            f"{self.metric} shows at two standard errors{few} (the noise was measured on {self.pilot} examples)."
        )


def resolve(
    space: BitmapSpace,
    evaluator: Evaluator,
    objectives: Sequence[str | Objective],
    share: float,
    *,
    most: int | None = None,
    pilot: int = PILOT,
    seed: int = 0,
) -> Resolution:
    """Choose how many examples the evaluations of a search take.

    Args:
        space: the space that is to be searched.
        evaluator: an evaluator of its model, whose limit does not count here.
        objectives: those of the search; the first that is measured counts.
        share: the difference that is to show, as a share of the metric's value, such as 0.02.
        most: the most examples; None for no bound.
        pilot: on how many examples the noise is measured.
        seed: draws the units at which the two bitmaps differ.

    Raises:
        BadInputError: The share is not between 0 and 1, no objective is measured, the space has one bitmap, or the
            metric has no scores by example, or the value 0.
    """
    if not 0 < share < 1:
        raise BadInputError(f"a difference to resolve must be a share between 0 and 1: got {share}; 0.02 is 2 %")
    measured = next((each for each in parse_objectives(objectives) if not each.is_cost), None)
    if measured is None:
        raise BadInputError("a difference can be resolved in a metric that is measured: all objectives are costs")
    pair = list(pair_of(space, seed))
    first, second = measuring(evaluator, objectives).evaluate(pair, pilot if most is None else min(pilot, most))
    deviation = deviation_of(first, second, measured.name)
    needed = max(2, math.ceil((STANDARD_ERRORS * deviation / share) ** 2))
    return Resolution(measured.name, share, first.examples, deviation, needed if most is None else min(needed, most))


def pair_of(space: BitmapSpace, seed: int) -> tuple[Bitmap, Bitmap]:
    """Return a bitmap from the middle of a space, and one that differs from it at a tenth of the units by one step.

    Raises:
        BadInputError: The space has one bitmap only.
    """
    uniform = space.uniform()
    middle = uniform[len(uniform) // 2] if uniform else space.project(space.bitmap([0] * len(space.units)))
    picks = list(space.encode(middle))
    free = [unit for unit, each in enumerate(space.units) if each.choices > 1]
    for unit in random.Random(seed).sample(free, min(len(free), max(2, len(space.units) // EVERY))):
        picks[unit] += -1 if picks[unit] else 1
    top = [unit.choices - 1 for unit in space.units]
    # a step up may be above a limit, and the projection takes it back
    others = (space.project(space.bitmap(each)) for each in (picks, top))
    other = next((each for each in others if each != middle), None)
    if other is None:
        raise BadInputError("a space must have two bitmaps for a difference to be resolved: this one has one")
    return middle, other


def deviation_of(first: Evaluation, second: Evaluation, metric: str) -> float:
    """Return the standard deviation of the paired differences, as a share of the metric's value at ``first``.

    Raises:
        BadInputError: There are no scores by example, fewer than two, or the value is 0 or no number.
    """
    scores = [each.per_example.get(metric) for each in (first, second)]
    if scores[0] is None or scores[1] is None or len(scores[0]) < 2:
        raise BadInputError(
            f"the noise of {metric} is measured on at least two examples with a score each: {metric} has none here; "
            "choose another objective, or set limit"
        )
    value = first[metric]
    if not (math.isfinite(value) and value):
        raise BadInputError(f"a share of {metric} is a share of a number: it is {value} at {first.examples} examples")
    differences = np.asarray(scores[0], dtype=float) - np.asarray(scores[1], dtype=float)
    return float(differences.std(ddof=1)) / abs(value)
