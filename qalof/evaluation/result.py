"""What an evaluation yields: metrics, and the per-example scores that intervals are made from.

A loss a token is a ratio, sum(nats) / sum(tokens), and not a mean over examples, which have unequal counts.  Its scores
are scaled by (examples / all tokens), so that their mean is the loss and two models compare example by example; the
tokens stand beside them as weights, for the interval.  A perplexity is exp(loss), or exp(loss * tokens a word), hence
so are its bounds; how words fall on tokens is taken as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from qalof.errors import BadInputError, nearest_hint
from qalof.statistics import Interval, bootstrap_mean, bootstrap_ratio

LOSS = "loss"
MOST_NATS = 700.0
"""exp of more is no float."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model at one bitmap on one split.

    ``metrics``: name -> value (``exact_match``, ``f1`` and ``accuracy`` in percent, ``loss`` in nats);
    ``per_example``: name -> one score an example, in the split's order, for metrics that are means of them;
    ``counts``: what was cut or could not be right, by name, such as prompts that lost part of their context;
    ``weights``: name -> one weight an example, for metrics that are ratios of sums; ``exponents``: name -> factor, for
    metrics that are exp(factor * loss).
    """

    metrics: Mapping[str, float]
    examples: int
    per_example: Mapping[str, list[float]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, list[int]] = field(default_factory=dict)
    exponents: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        if name not in self.metrics:
            raise BadInputError(f"no metric {name!r} in the evaluation; {nearest_hint(name, self.metrics)}")
        return self.metrics[name]

    def interval(self, name: str) -> Interval:
        """95 % bootstrap interval of a metric; of zero width where it is not finite or has no per-example scores.

        Raises:
            BadInputError: no such metric.
        """
        value = float(self[name])
        if not math.isfinite(value):
            return Interval.exact(value)
        if name in self.exponents:
            loss, factor = self.interval(LOSS), self.exponents[name]
            return Interval(self[name], exp_nats(factor * loss.low), exp_nats(factor * loss.high))
        if name not in self.per_example:
            return Interval.exact(value)
        if name not in self.weights:
            return bootstrap_mean(self.per_example[name])
        mean = fmean(self.weights[name])
        return bootstrap_ratio(self.per_example[name], [weight / mean for weight in self.weights[name]])

    def to_json(self) -> dict[str, Any]:
        """A plain dict; :meth:`from_json` reads it back."""
        return {
            "metrics": dict(self.metrics),
            "examples": self.examples,
            "per_example": dict(self.per_example),
            "counts": dict(self.counts),
            "weights": dict(self.weights),
            "exponents": dict(self.exponents),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """The inverse of :meth:`to_json`."""
        scores, counts = dict(data.get("per_example", {})), dict(data.get("counts", {}))
        weights, exponents = dict(data.get("weights", {})), dict(data.get("exponents", {}))
        return cls(dict(data["metrics"]), int(data["examples"]), scores, counts, weights, exponents)


def token_scores(sums: Sequence[float], tokens: Sequence[int]) -> list[float]:
    """Scores of examples whose mean is the loss a token: nats summed over each one's tokens, scaled."""
    scale = len(sums) / sum(tokens)
    return [value * scale for value in sums]


def exp_nats(nats: float) -> float:
    """A perplexity; the largest there is, where it would be no float."""
    return math.exp(min(nats, MOST_NATS))
