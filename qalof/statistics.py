"""Intervals for what is reported: Wilson for rates, percentile bootstrap for means and paired differences.

All are at 95 % unless told otherwise, and all are deterministic: the bootstrap draws from a seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

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
    means = np.concatenate([data[drawn].mean(axis=1) for drawn in _resamples(len(data), seed)])
    return Interval(float(data.mean()), *_percentiles(means, confidence))


def bootstrap_ratio(
    numerators: Sequence[float], denominators: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile bootstrap over examples of sum(numerators) / sum(denominators), such as of a loss a token.

    The denominator is resampled with its numerator: examples are what varies, and long ones weigh more in both.
    Resamples whose denominators are all zero say nothing and are left out.

    Raises:
        BadInputError: lists of different lengths, or denominators that are negative or all zero.
    """
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if len(above) != len(below):
        raise BadInputError(f"a ratio needs a denominator for each numerator: got {len(below)} for {len(above)}")
    if not (below >= 0).all() or not below.any():
        raise BadInputError(f"denominators must be at least 0 and not all 0: got {below.tolist()[:5]} ...")
    sums = [(above[drawn].sum(axis=1), below[drawn].sum(axis=1)) for drawn in _resamples(len(above), seed)]
    ratios = np.concatenate([top[bottom > 0] / bottom[bottom > 0] for top, bottom in sums])
    return Interval(float(above.sum() / below.sum()), *_percentiles(ratios, confidence))


def _resamples(examples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Positions (rows, examples), drawn with replacement; in slices, lest ten thousand need twenty million at once."""
    rng = np.random.default_rng(seed)
    for done in range(0, RESAMPLES, 100):
        yield rng.integers(0, examples, (min(100, RESAMPLES - done), examples))


def _percentiles(found: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    low, high = np.quantile(found, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def paired_difference(after: Sequence[float], before: Sequence[float], *, seed: int = 0) -> Interval:
    """Bootstrap of the mean of ``after - before`` over the same examples.

    Raises:
        BadInputError: the lists differ in length.
    """
    if len(after) != len(before):
        raise BadInputError(f"a paired difference needs the same examples: got {len(after)} and {len(before)}")
    return bootstrap_mean([a - b for a, b in zip(after, before, strict=True)], seed=seed)
