"""The contract of a strategy.

A strategy is a generator function.  It yields generations (lists of bitmaps) and receives, by ``send``, their
scores in the same order; when it returns, the search ends.  It may yield a bitmap again, which costs nothing:
the study answers from what it knows.  It must

* yield only bitmaps within the limits of its space;
* be a pure function of its context, its options and the scores, since a search is resumed by running it again;
* make generations whose size does not depend on how many workers there are, for the same reason;
* end by itself when it finds nothing new, since a study counts only what is new.

It may also yield a :class:`search.measurement.Measurement`, and then receives a list of its one result.

Its further results (steps, ranks) are written to ``context.trace``, row by row, so they can be read at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.metrics import METRICS, Metric, described
from search.measurement import Measurement
from search.metric_limit import MetricLimit
from search.objective import Objective
from search.space import BitmapSpace

Strategy = Generator[list[Bitmap] | Measurement, list[Any], None]
StrategyFunction = Callable[..., Strategy]
"""A function that is called with a :class:`StrategyContext` and the strategy's own options by keyword."""

Row = dict[str, Any]


@dataclass(frozen=True)
class StrategyContext:
    """The input of every strategy: the space, the objectives, the seed of all its draws, and the limits on metrics, by
    which scores are already marked.
    """

    space: BitmapSpace
    objectives: tuple[Objective, ...]
    seed: int = 0
    trace: list[Row] = field(default_factory=list)
    metric_limits: tuple[MetricLimit, ...] = ()

    def primary_metric(self) -> Objective:
        """Return the first objective that an evaluation measures.

        Raises:
            BadInputError: All objectives are costs.
        """
        for objective in self.objectives:
            if not objective.is_cost:
                return objective
        given = ", ".join(map(str, self.objectives))
        raise BadInputError(f"this strategy must have an objective that is measured, such as max:f1: got {given}")

    def metric_of(self, name: str) -> Metric:
        """Return a metric of the evaluations, as registered or otherwise with the direction of an objective, if any."""
        named = next((objective.metric for objective in self.objectives if objective.name == name), None)
        return METRICS.get(name) or named or described(name)
