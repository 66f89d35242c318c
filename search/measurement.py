"""What a strategy may ask about a model other than the quality of a bitmap: tables of scores, and gradients.

A measurement is a value that names what is wanted.  Whoever holds the model calls :meth:`Measurement.take`: the
evaluator of this process, or an actor elsewhere, to which the value travels.  Its result is plain JSON, so it stands in
the record of a search beside the evaluations and is never taken twice.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from qalof.bitmap import Bitmap, LayerBits
from qalof.digests import content_digest

Choices = Mapping[str, Sequence[str]]
"""Site -> the choices to look at, as layer bits are written."""

EXAMPLES = 8
"""Calibration examples of a measurement: 8 windows of 256 tokens of running text (docs/methods/guided_search.md)."""


@dataclass(frozen=True)
class Measurement(ABC):
    """A question about a model and its task, answered from training examples alone."""

    choices: Choices
    """Which choices of which sites are asked about."""
    examples: int | None
    """How many training examples are looked at; None takes the number that the measurement has by itself."""
    seed: int
    """Draws the examples, and labels where labels are drawn."""

    @abstractmethod
    def take(self, model: Any, task: Any) -> dict[str, Any]:
        """Measure, and return the result as JSON; the model returns to its bitmap and mode."""

    @cached_property
    def key(self) -> str:
        """A digest of the question: equal keys ask for the same."""
        return content_digest(type(self).__name__, json.loads(json.dumps(asdict(self), default=_plain)))

    def layers(self) -> dict[str, list[LayerBits]]:
        """Return the choices as layer bits."""
        return {site: [LayerBits.parse(choice) for choice in choices] for site, choices in self.choices.items()}


@dataclass(frozen=True)
class ScoresWanted(Measurement):
    """A table of scores; the result is that of :meth:`search.scores.table.ScoreTable.to_json`."""

    score: str = "fisher"
    """The name of the score."""

    def take(self, model: Any, task: Any) -> dict[str, Any]:
        """Compute the table at the sites and choices."""
        from search.scores.compute import compute

        table = compute(model, task, self.score, choices=self.roles(), examples=self.examples, seed=self.seed)
        return table.to_json()

    def roles(self) -> dict[str, dict[str, list[str]]]:
        """Return role -> site -> the widths below full precision that its choices have."""
        found: dict[str, dict[str, list[str]]] = {"weight": {}, "activation": {}, "kv": {}}
        for site, layers in self.layers().items():
            for bits in layers:
                for role, width in (("weight", bits.weight_width), ("activation", bits.activation), ("kv", bits.kv)):
                    listed = found[role].setdefault(site, [])
                    if str(width) not in listed:
                        listed.append(str(width))
        return found


@dataclass(frozen=True)
class GradientWanted(Measurement):
    """The divergence at a bitmap with its first-order changes; the result has ``kl``, their mean, and ``changes``."""

    bitmap: Bitmap = Bitmap({})
    """Where the gradient is taken."""

    def take(self, model: Any, task: Any) -> dict[str, Any]:
        """Run the model at full precision and at the bitmap, and back."""
        from qalof.evaluation.kl import reference_of
        from qalof.evaluation.weight_gradient import weight_gradient
        from search.scores.data import scoring_data

        device = next(model.parameters()).device
        data = scoring_data(task, "gradient", examples=self.examples, seed=self.seed, device=device)
        found = weight_gradient(model, reference_of(model, data.batches), self.bitmap, self.layers())
        return {"kl": found.mean_kl, "rows": len(found.kl), "changes": {k: dict(v) for k, v in found.changes.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Bitmap):
        return value.to_json()
    raise TypeError(f"{value!r} is no JSON")
