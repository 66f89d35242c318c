"""What a strategy may ask about a model besides the quality of a bitmap: a table of scores, a gradient, or a race.

A measurement is a value that says what is wanted.  Whoever holds the model takes it (:meth:`Measurement.take`): the
evaluator of this process, or an actor to which the value travels.  The result is plain JSON, so it stands in the record
of a search beside the evaluations, and a search that resumes does not take it again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from qalof.bitmap import Bitmap, LayerBits
from qalof.digests import content_digest
from qalof.evaluation.result import Evaluation
from qalof.metrics import requested
from qalof.statistics import to_nullable
from search.failure import attempted

Taken = dict[str, Any]
"""The result of a measurement, as JSON."""


class Measurement(ABC):
    """A question about a model, answered from examples of its task."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the question as JSON: equal ones are the same question."""

    @abstractmethod
    def take(self, model: Any, task: Any) -> Taken:
        """Measure; the model returns to its bitmap and mode.

        Raises:
            BadInputError: The task has no likelihood or no training examples, or the model cannot do a choice.
        """

    @cached_property
    def key(self) -> str:
        """A digest of the question."""
        return content_digest(type(self).__name__, self.to_json())


@dataclass(frozen=True)
class ScoresWanted(Measurement):
    """A table of scores; the result is :meth:`search.scores.table.ScoreTable.to_json`."""

    score: str
    """The name of the score (:mod:`search.scores.compute`)."""
    choices: Mapping[str, Sequence[str]]
    """The widths by role, such as ``{"weight": ("4", "4g32")}``."""
    examples: int | None
    """How many training examples are seen; None takes as many as have 2,048 tokens."""
    seed: int
    """The seed that draws the examples and their labels."""

    def to_json(self) -> dict[str, Any]:
        """Return the question as JSON."""
        choices = {role: list(widths) for role, widths in self.choices.items()}
        return {"score": self.score, "choices": choices, "examples": self.examples, "seed": self.seed}

    def take(self, model: Any, task: Any) -> Taken:
        """Compute the table."""
        from search.scores.compute import compute

        return compute(model, task, self.score, self.choices, examples=self.examples, seed=self.seed).to_json()


@dataclass(frozen=True)
class GradientWanted(Measurement):
    """KL to full precision at a bitmap, and its first-order changes (:mod:`qalof.evaluation.weight_gradient`).

    The result has ``kl``, the mean in nats; ``rows``, how many labeled rows it is the mean of; and ``changes``, by site
    and choice.
    """

    bitmap: Bitmap
    """Where the gradient is taken."""
    choices: Mapping[str, Sequence[LayerBits]]
    """The layer bits to look at, by site."""
    examples: int | None
    """How many training examples are seen; None takes as many as have 2,048 tokens."""
    seed: int
    """The seed that draws the examples; another one than that of the scores looks at fresh ones."""

    def to_json(self) -> dict[str, Any]:
        """Return the question as JSON."""
        choices = {site: [str(bits) for bits in layers] for site, layers in self.choices.items()}
        return {
            "bitmap": self.bitmap.to_json(), "choices": choices, "examples": self.examples, "seed": self.seed,
        }  # fmt: skip

    def take(self, model: Any, task: Any) -> Taken:
        """Run the model at full precision, at the bitmap, and back."""
        from qalof.evaluation.kl import reference_of
        from qalof.evaluation.weight_gradient import weight_gradient
        from search.scores.data import scoring_data

        data = scoring_data(task, "gradient", examples=self.examples, seed=self.seed, device=model.device)
        found = weight_gradient(model, reference_of(model, data.batches), self.bitmap, self.choices)
        changes = {site: dict(choices) for site, choices in found.changes.items()}
        return {"kl": found.mean_kl, "rows": len(found.kl), "changes": changes}


@dataclass(frozen=True)
class HeatWanted(Measurement):
    """One heat of a race: several bitmaps on a few examples (:mod:`search.strategies.evolutionary`).

    The result has ``values``, one per bitmap in their order: null where a bitmap cannot be evaluated or its value is
    not finite.
    """

    bitmaps: tuple[Bitmap, ...]
    """Those that race."""
    metric: str
    """The name of the metric that counts."""
    examples: int
    """How many validation examples are seen, the first ones."""

    def to_json(self) -> dict[str, Any]:
        """Return the question as JSON."""
        bitmaps = [bitmap.to_json() for bitmap in self.bitmaps]
        return {"bitmaps": bitmaps, "metric": self.metric, "examples": self.examples}

    def take(self, model: Any, task: Any) -> Taken:
        """Evaluate one bitmap after another."""
        from qalof.tasks.base import on_request
        from qalof.tasks.parts import evaluate_in_parts

        asked = on_request(task, requested([self.metric]))

        def value(bitmap: Bitmap) -> Evaluation:
            model.set_bitmap(bitmap, quiet=True)
            return evaluate_in_parts(task, model, self.examples, **asked)

        with model.at(eval=True):
            found = [attempted(partial(value, bitmap))[self.metric] for bitmap in self.bitmaps]
        return {"values": [to_nullable(each) for each in found]}
