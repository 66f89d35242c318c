"""Rates of requests, several of which may belong to one example.

Repeated draws of one example are not independent trials: an attack that works at 4 bits works at every draw of 4
bits.  So the interval is Wilson's at n = the number of *examples*, whatever the number of draws.  That is exact
for one draw each and too wide, never too narrow, for more; the pooled count as n would shrink the interval with
every draw of the same few texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

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
        """Of the requests that are ``counted`` (all, if None).  Both (examples,) or (examples, draws)."""
        mask = np.ones_like(hits) if counted is None else counted
        rows = mask.reshape(len(mask), -1)
        found, trials, clusters = int((hits & mask).sum()), int(mask.sum()), int(rows.any(axis=1).sum())
        if not trials:
            return cls(0, 0, 0, None, 0.0, 1.0)
        low, high = wilson_bounds(found / trials, clusters)
        return cls(found, trials, clusters, found / trials, low, high)


def wilson_bounds(share: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's bounds of a share of ``trials`` independent units; the share need not be a multiple of 1/trials."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    spread = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / spread
    half = z / spread * (share * (1 - share) / trials + z * z / (4 * trials * trials)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)
