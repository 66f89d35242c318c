"""Rates of requests, several of which may belong to one example.

Repeated draws of one example are not independent trials: an attack that works at 4 bits works at every draw of 4
bits.  So the interval is Wilson's at n = the number of *examples*, whatever the number of draws.  That is exact
for one draw each and too wide, never too narrow, for more; the pooled count as n would shrink the interval with
every draw of the same few texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from qalof.statistics import wilson

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rate:
    """``hits`` of ``trials`` requests from ``clusters`` examples, in [0, 1] with 95 % bounds; None of no trials."""

    hits: int
    trials: int
    clusters: int
    estimate: float | None
    low: float
    high: float

    @classmethod
    def of(cls, hits: Mask, counted: Mask | None = None) -> Self:
        """Return the rate of the requests that are ``counted`` (all, if None). Both are (examples,) or (examples,
        draws).
        """
        mask = np.ones_like(hits) if counted is None else counted
        rows = mask.reshape(len(mask), -1)
        found, trials, clusters = int((hits & mask).sum()), int(mask.sum()), int(rows.any(axis=1).sum())
        if not trials:
            return cls(0, 0, 0, None, 0.0, 1.0)
        bounds = wilson(found / trials * clusters, clusters)
        return cls(found, trials, clusters, found / trials, bounds.low, bounds.high)
