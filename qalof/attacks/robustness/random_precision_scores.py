"""Scores of a task under random precision, over R draws (docs/methods/random_precision.md, "Scores under it").

Each example of the task is a request, whatever number of sequences it is read in, so exact match and F1 mean what they
mean at a fixed bitmap.  Where a request, or a batch of them, draws one bitmap for the whole model, an example's score
at a draw is its score at that bitmap: the task is scored once per bitmap of the set, and R draws cost nothing more
(:func:`selected`).  Where layers or tokens draw for themselves, the bitmaps are too many for that, and the task is
scored R times through :class:`~qalof.attacks.robustness.random_precision_model.RandomPrecisionModel`, whose requests
are the sequences that the task gives it, in its order (:func:`drawn`).

Draws of one example are no independent trials.  The interval is a bootstrap over examples, each with its mean over
draws; ``spread`` is the lowest and the highest score of a whole draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.attacks.robustness.random_precision_model import RandomPrecisionModel
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.evaluation.result import LOSS, Evaluation, exp_nats
from qalof.model.switchable import SwitchableModel
from qalof.tasks.base import Task

DRAWS = 20


@dataclass(frozen=True)
class RandomPrecisionScores:
    """A task's scores under random precision."""

    defense: RandomPrecision
    """What was drawn."""
    mean: Evaluation
    """The mean over draws, per example; its intervals are over examples."""
    spread: Mapping[str, tuple[float, float]]
    """The lowest and the highest value of a metric among the draws."""
    draws: int
    """How many draws there were."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict: metrics as [estimate, low, high]."""
        return {
            "defense": self.defense.to_json(),
            "draws": self.draws,
            "metrics": {name: self.mean.interval(name).to_json() for name in self.mean.metrics},
            "spread": {name: list(bounds) for name, bounds in self.spread.items()},
            "examples": self.mean.examples,
        }


def evaluate_under(
    model: SwitchableModel, task: Task, defense: RandomPrecision, draws: int = DRAWS, limit: int | None = None
) -> RandomPrecisionScores:
    """Score ``task`` under ``draws`` draws per request, in this process; the model returns to its bitmap.

    Raises:
        BadInputError: there is no draw.
    """
    return scores_of(
        defense, draws, lambda bitmaps: [_at(model, task, bitmap, limit) for bitmap in bitmaps],
        lambda numbers: [drawn(model, task, defense, number, limit) for number in numbers],
    )  # fmt: skip


def scores_of(
    defense: RandomPrecision, draws: int,
    at: Callable[[Sequence[Bitmap]], Sequence[Evaluation]],
    under: Callable[[Sequence[int]], Sequence[Evaluation]],
) -> RandomPrecisionScores:  # fmt: skip
    """Return the scores, given what scores the task at bitmaps and what scores it under draws, by their numbers.

    Raises:
        BadInputError: there is no draw.
    """
    if draws < 1:
        raise BadInputError(f"random precision needs at least 1 draw per request: got {draws}; {DRAWS} are usual")
    weights = defense.weights()
    if weights is None:
        found = list(under(range(draws)))
    else:
        bitmaps = [bitmap for bitmap, weight in weights.items() if weight]
        by_bitmap = dict(zip(bitmaps, at(bitmaps), strict=True))
        found = [selected(by_bitmap, defense, draw) for draw in range(draws)]
    spread = {name: (min(values), max(values)) for name in found[0].metrics if (values := [e[name] for e in found])}
    scores = {
        name: np.mean([each.per_example[name] for each in found], axis=0).tolist() for name in found[0].per_example
    }
    return RandomPrecisionScores(defense, _with_scores(found[0], scores), spread, draws)


def selected(by_bitmap: Mapping[Bitmap, Evaluation], defense: RandomPrecision, draw: int) -> Evaluation:
    """Return the evaluation of one draw: each example has its score at the bitmap that it drew."""
    first = next(iter(by_bitmap.values()))
    chosen = [by_bitmap[defense.bitmap(example, draw)] for example in range(first.examples)]
    scores = {
        name: [each.per_example[name][example] for example, each in enumerate(chosen)] for name in first.per_example
    }
    return _with_scores(first, scores)


def drawn(
    model: SwitchableModel, task: Task, defense: RandomPrecision, draw: int, limit: int | None = None
) -> Evaluation:
    """Return the evaluation of one draw, each sequence of which is a request."""
    with model.at(eval=True):
        return task.evaluate(RandomPrecisionModel(model, defense, draw), limit=limit)


def _at(model: SwitchableModel, task: Task, bitmap: Bitmap, limit: int | None) -> Evaluation:
    with model.at(bitmap, eval=True):
        return task.evaluate(model, limit=limit)


def _with_scores(like: Evaluation, scores: Mapping[str, list[float]]) -> Evaluation:
    """Return an evaluation of the same examples with other scores, from which every metric follows."""
    metrics = {name: fmean(values) for name, values in scores.items()}
    metrics |= {name: exp_nats(factor * metrics[LOSS]) for name, factor in like.exponents.items()}
    if missing := sorted(set(like.metrics) - set(metrics)):
        raise BadInputError(f"metrics must be means over examples to be drawn example by example: {missing} are not")
    return replace(like, metrics={name: metrics[name] for name in like.metrics}, per_example=scores)
