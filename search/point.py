"""One evaluated bitmap of a search: its costs and its metrics with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qalof.bitmap import Bitmap
from qalof.bitmap_names import Sized, summary
from qalof.cost import COST_NAMES, Cost
from qalof.statistics import Interval, from_nullable, to_nullable
from search.objective import Score


@dataclass(frozen=True)
class Point:
    """One evaluated bitmap.

    ``metrics``: name -> value with its 95 % interval; ``values``: the values of the objectives, in their order;
    ``examples``: the number of examples behind the metrics; ``summary``: the bitmap in one line
    (:mod:`qalof.bitmap_names`); ``failure``: why the bitmap has no score, empty where it has one; ``breaks``: the
    limits on metrics that it breaks, empty where it keeps them.
    """

    bitmap: Bitmap
    cost: Cost
    metrics: Mapping[str, Interval]
    values: tuple[float, ...]
    examples: int
    summary: str = ""
    failure: str = ""
    breaks: str = ""

    @classmethod
    def of(cls, score: Score, sites: Sequence[Sized] | None = None) -> Point:
        """Condense a score: per-example scores become intervals; ``sites`` weight the summary."""
        evaluation = score.evaluation
        # a task may sum in another order than the bootstrap's mean, so the estimate is the metric to the last bit
        metrics = {
            name: replace(evaluation.interval(name), estimate=float(value))
            for name, value in evaluation.metrics.items()
        }
        said = summary(score.bitmap, sites)
        why = evaluation.failure, score.breaks
        return cls(score.bitmap, score.cost, metrics, score.values, evaluation.examples, said, *why)

    @property
    def ranked(self) -> tuple[float, ...]:
        """The values by which it takes part in a front; numbers that are none where it breaks a limit on a metric."""
        return (math.nan,) * len(self.values) if self.breaks else self.values

    def value(self, name: str) -> float:
        """Return a cost or metric by name."""
        return self.cost.value(name) if name in COST_NAMES else self.metrics[name].estimate

    def as_row(self) -> dict[str, Any]:
        """Return one flat row for a table."""
        row: dict[str, Any] = {"id": self.bitmap.id, "bitmap": str(self.bitmap), "summary": self.summary}
        for name, interval in self.metrics.items():
            row |= interval.to_columns(name)
        return row | self.cost.to_json()

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict, in which numbers that are not finite become null."""
        why = {name: said for name, said in (("failure", self.failure), ("breaks", self.breaks)) if said}
        return why | {
            "id": self.bitmap.id,
            "summary": self.summary,
            "bitmap": self.bitmap.to_json(),
            "cost": self.cost.to_json(),
            "metrics": {name: interval.to_json() for name, interval in self.metrics.items()},
            "values": [to_nullable(value) for value in self.values],
            "examples": self.examples,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Point:
        """Read the form of :meth:`to_json`; null becomes NaN."""
        metrics = {name: Interval.from_json(values) for name, values in data["metrics"].items()}
        values = tuple(map(from_nullable, data["values"]))
        bitmap = Bitmap.from_json(data["bitmap"])
        said = data.get("summary") or summary(bitmap)
        why = data.get("failure", ""), data.get("breaks", "")
        return cls(bitmap, Cost(**data["cost"]), metrics, values, data["examples"], said, *why)
