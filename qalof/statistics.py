"""Intervals for what is reported: Wilson for rates, percentile bootstrap for means and paired differences.

All are at 95 % unless told otherwise, and all are deterministic: the bootstrap draws from a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from qalof.errors import BadInputError

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence bounds, in the unit of the estimate."""

    estimate: float
    low: float
    high: float


def wilson(successes: float, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a rate, in [0, 1]; the whole of it where nothing was tried.

    ``successes`` need not be whole: the mean of several draws a trial is a share of a success.

    Raises:
        BadInputError: more successes than trials, or negative counts.
    """
    if not 0 <= successes <= trials:
        raise BadInputError(f"successes must lie between 0 and trials: got {successes} of {trials}")
    if trials == 0:
        return Interval(float("nan"), 0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * (rate * (1 - rate) / trials + z * z / (4 * trials * trials)) ** 0.5
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half))


def bootstrap_mean(values: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Percentile bootstrap of a mean over examples.

    Raises:
        BadInputError: no values.
    """
    if not len(values):
        raise BadInputError("a mean needs at least one value: got none")
    data = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    # in slices, so that ten thousand examples do not need a matrix of twenty million
    slices = [min(100, RESAMPLES - done) for done in range(0, RESAMPLES, 100)]
    means = np.concatenate([data[rng.integers(0, len(data), (rows, len(data)))].mean(axis=1) for rows in slices])
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(data.mean()), float(low), float(high))


def paired_difference(after: Sequence[float], before: Sequence[float], *, seed: int = 0) -> Interval:
    """Bootstrap of the mean of ``after - before`` over the same examples.

    Raises:
        BadInputError: the lists differ in length.
    """
    if len(after) != len(before):
        raise BadInputError(f"a paired difference needs the same examples: got {len(after)} and {len(before)}")
    return bootstrap_mean([a - b for a, b in zip(after, before, strict=True)], seed=seed)
