"""The result of an evaluation: metrics, and the per-example scores from which intervals are computed.

A loss per token is a ratio, sum(nats) / sum(tokens), and not a mean over examples, which have unequal counts. Its
scores are scaled by (examples / all tokens), so their mean is the loss and two models can be compared example by
example; the tokens are stored with them as weights, for the interval. A perplexity is exp(loss), or exp(loss * tokens
per word), and its bounds follow from those of the loss; the number of tokens per word counts as fixed.
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
"""The exponential of a greater number is not a float."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model at one bitmap on one split.

    ``metrics``: name -> value (``exact_match``, ``f1`` and ``accuracy`` in percent, ``loss`` in nats); ``per_example``:
    name -> one score per example, in the order of the split, for metrics that are means of them; ``counts``: what was
    cut or could not be answered, by name, such as prompts that lost part of their context; ``weights``: name -> one
    weight per example, for metrics that are ratios of sums; ``exponents``: name -> factor, for metrics that are
    exp(factor * loss); ``failure``: why there is no score, empty where there is one.  Every metric of a failed
    evaluation is NaN, unless it has a value of its own.  ``span``: when it began and ended, in seconds since 1970,
    where that is known; it is no part of the result, and is not stored with it.
    """

    metrics: Mapping[str, float]
    examples: int
    per_example: Mapping[str, list[float]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, list[int]] = field(default_factory=dict)
    exponents: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""
    span: tuple[float, float] | None = field(default=None, compare=False)

    @classmethod
    def failed(cls, reason: str) -> Evaluation:
        """Return the evaluation of a bitmap that could not be evaluated."""
        return cls({}, 0, failure=reason)

    def __getitem__(self, name: str) -> float:
        if name not in self.metrics and self.failure:
            return math.nan
        if name not in self.metrics:
            raise BadInputError(f"no metric {name!r} in the evaluation; {nearest_hint(name, self.metrics)}")
        return self.metrics[name]

    def interval(self, name: str) -> Interval:
        """Return the 95 % bootstrap interval of a metric; it has zero width without finite per-example scores.

        Raises:
            BadInputError: There is no such metric.
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
        """Return a plain dict; :meth:`from_json` reads it back."""
        said = {"failure": self.failure} if self.failure else {}
        return said | {
            "metrics": dict(self.metrics),
            "examples": self.examples,
            "per_example": dict(self.per_example),
            "counts": dict(self.counts),
            "weights": dict(self.weights),
            "exponents": dict(self.exponents),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """Read the form of :meth:`to_json`, to which a ``span`` may have been added."""
        scores, counts = dict(data.get("per_example", {})), dict(data.get("counts", {}))
        weights, exponents = dict(data.get("weights", {})), dict(data.get("exponents", {}))
        failure = str(data.get("failure", ""))
        span = None if data.get("span") is None else (float(data["span"][0]), float(data["span"][1]))
        return cls(dict(data["metrics"]), int(data["examples"]), scores, counts, weights, exponents, failure, span)


def token_scores(sums: Sequence[float], tokens: Sequence[int]) -> list[float]:
    """Return scores of examples whose mean is the loss per token: the nats of each example's tokens, summed and
    scaled.
    """
    scale = len(sums) / sum(tokens)
    return [value * scale for value in sums]


def mean_per_token(sums: Sequence[float], tokens: Sequence[int]) -> tuple[float, list[float]]:
    """Return the mean per token of what each example's tokens add up to, and the :func:`token_scores` of it."""
    return sum(sums) / sum(tokens), token_scores(sums, tokens)


def exp_nats(nats: float) -> float:
    """Return the exponential, a perplexity; the largest float where it would exceed it."""
    return math.exp(min(nats, MOST_NATS))
