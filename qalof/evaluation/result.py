"""What an evaluation yields: metrics, and the per-example scores that intervals are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qalof.errors import BadInputError, nearest_hint
from qalof.statistics import Interval, bootstrap_mean


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model at one bitmap on one split.

    ``metrics``: name -> value (``exact_match``, ``f1`` and ``accuracy`` in percent, ``loss`` in nats);
    ``per_example``: name -> one score an example, in the split's order, for metrics that are means of them;
    ``counts``: what was cut or could not be right, by name, such as prompts that lost part of their context.
    """

    metrics: Mapping[str, float]
    examples: int
    per_example: Mapping[str, list[float]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        if name not in self.metrics:
            raise BadInputError(f"no metric {name!r} in the evaluation; {nearest_hint(name, self.metrics)}")
        return self.metrics[name]

    def interval(self, name: str) -> Interval:
        """95 % bootstrap interval of a metric; of zero width where no per-example scores were kept."""
        if name not in self.per_example:
            return Interval(self[name], self[name], self[name])
        return bootstrap_mean(self.per_example[name])

    def to_json(self) -> dict[str, Any]:
        """A plain dict; :meth:`from_json` reads it back."""
        return {
            "metrics": dict(self.metrics),
            "examples": self.examples,
            "per_example": dict(self.per_example),
            "counts": dict(self.counts),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """The inverse of :meth:`to_json`."""
        scores, counts = dict(data.get("per_example", {})), dict(data.get("counts", {}))
        return cls(dict(data["metrics"]), int(data["examples"]), scores, counts)
