"""Intervals for what is reported: Wilson for rates, percentile bootstrap for means, ratios and paired differences.

All are at 95 % unless the caller says otherwise, and all are deterministic: the bootstrap draws from a seed.

:func:`scipy.stats.bootstrap` draws the resamples.  The bounds are quantiles of what it returns rather than its own
interval: a resample of a ratio may have no denominator and is left out, which scipy's own interval cannot do.
Wilson's interval is our own, because the number of successes may be a fraction (:mod:`qalof.attacks.rates`), which
:func:`scipy.stats.binomtest` refuses; the tests compare the two at whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qalof.errors import BadInputError

RESAMPLES = 2000
"""How many resamples every bootstrap takes."""

SLICE = 100
"""How many resamples are held at once: 2,000 of ten thousand examples would be twenty million numbers."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence bounds, in the unit of the estimate."""

    estimate: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Self:
        """Return the interval of a value that is known without spread, or that is not finite."""
        return cls(float(value), float(value), float(value))

    def to_json(self) -> list[float | None]:
        """Return ``[estimate, low, high]``, with null for each number that is not finite, since JSON has no other
        form.
        """
        return [to_nullable(value) for value in (self.estimate, self.low, self.high)]

    @classmethod
    def from_json(cls, data: Sequence[float | None]) -> Self:
        """Read the form of :meth:`to_json`; null becomes NaN.

        Raises:
            TypeError, ValueError: ``data`` is no list of three numbers or nulls.
        """
        estimate, low, high = map(from_nullable, data)
        return cls(estimate, low, high)

    def to_columns(self, name: str) -> dict[str, float]:
        """Return the three cells of a flat row: ``name``, ``name_low`` and ``name_high``."""
        return {name: self.estimate, f"{name}_low": self.low, f"{name}_high": self.high}

    @classmethod
    def from_columns(cls, row: Mapping[str, Any], name: str) -> Self:
        """Read the cells of :meth:`to_columns`; null becomes NaN.

        Raises:
            KeyError, TypeError, ValueError: ``row`` has not the three cells, or other values than numbers or null.
        """
        return cls.from_json([row[name], row[f"{name}_low"], row[f"{name}_high"]])


def to_nullable(value: float) -> float | None:
    """Return a number as JSON can hold it: None where it is not finite."""
    return value if math.isfinite(value) else None


def from_nullable(value: Any) -> float:
    """Return a number from JSON: NaN for null, which stands for every number that is not finite.

    Raises:
        TypeError, ValueError: ``value`` is no number.
    """
    return math.nan if value is None else float(value)


def wilson(successes: float, trials: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of a rate, in [0, 1]; it is the whole of it where nothing was tried.

    ``successes`` need not be whole: the mean of several draws per trial is a share of a success.

    Raises:
        BadInputError: more successes than trials, or negative counts.
    """
    if not 0 <= successes <= trials:
        raise BadInputError(f"successes must lie between 0 and trials: got {successes} of {trials}")
    if trials == 0:
        return Interval(float("nan"), 0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / trials
    center = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * (rate * (1 - rate) / trials + z * z / (4 * trials * trials)) ** 0.5
    return Interval(rate, max(0.0, center - half), min(1.0, center + half))


def bootstrap_mean(values: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Return the percentile bootstrap of a mean over examples; a mean that is not finite has no bounds but itself.

    Raises:
        BadInputError: no values.
    """
    if not len(values):
        raise BadInputError("a mean needs at least one value: got none")
    data = np.asarray(values, dtype=np.float64)
    mean = float(data.mean())
    if not math.isfinite(mean):
        return Interval.exact(mean)  # resampling infinities gives nonsense and a warning each
    return Interval(mean, *_bounds(_resampled([data], np.mean, seed), confidence))


def bootstrap_ratio(
    numerators: Sequence[float], denominators: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the percentile bootstrap over examples of sum(numerators) / sum(denominators), such as of a loss per
    token.

    The denominator is resampled with its numerator: examples are what varies, and long ones weigh more in both.
    Resamples whose denominators are all zero say nothing and are left out; a ratio that is not finite has no bounds
    but itself.

    Raises:
        BadInputError: lists of different lengths, or denominators that are negative or all zero.
    """
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if len(above) != len(below):
        raise BadInputError(f"a ratio needs a denominator for each numerator: got {len(below)} for {len(above)}")
    if not (below >= 0).all() or not below.any():
        raise BadInputError(f"denominators must be at least 0 and not all 0: got {below.tolist()[:5]} ...")
    ratio = float(above.sum() / below.sum())
    if not math.isfinite(ratio):
        return Interval.exact(ratio)
    tops, bottoms = _resampled([above, below], _sums, seed)
    return Interval(ratio, *_bounds(tops[bottoms > 0] / bottoms[bottoms > 0], confidence))


def _sums(*data: Values, axis: int) -> Values:
    return np.stack([values.sum(axis=axis) for values in data])


def _resampled(data: Sequence[Values], statistic: Callable[..., Any], seed: int) -> Values:
    """Return ``statistic`` of each resample, (..., RESAMPLES); all of ``data``, each (examples,), are drawn alike."""
    # importing scipy.stats takes a second, which commands that make no interval should not wait for
    from scipy.stats import bootstrap

    if len(data[0]) == 1:  # scipy wants two examples; one can only be drawn again
        return np.asarray(statistic(*data, axis=-1))[..., None]
    found: Values = bootstrap(
        data,
        statistic,
        n_resamples=RESAMPLES,
        batch=SLICE,
        vectorized=True,
        paired=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).bootstrap_distribution
    return found


def _bounds(found: Values, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(found, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def paired_difference(after: Sequence[float], before: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the bootstrap of the mean of ``after - before`` over the same examples.

    Raises:
        BadInputError: the lists differ in length.
    """
    if len(after) != len(before):
        raise BadInputError(f"a paired difference needs the same examples: got {len(after)} and {len(before)}")
    return bootstrap_mean([a - b for a, b in zip(after, before, strict=True)], seed=seed)
