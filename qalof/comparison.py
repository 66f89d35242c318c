"""Paired tests between several ways to treat the same examples, corrected for how many comparisons are made.

Two ways are compared example by example.  Where each gives a yes or a no, McNemar's exact test asks whether the
examples on which they differ go one way more often than a fair coin would (:func:`scipy.stats.binomtest`).  Where an
example has a share, such as that of several draws, the test flips the signs of whole examples' differences
(:func:`scipy.stats.permutation_test`): an example is one cluster, however many draws it has, since its draws are not
independent.  Both are two-sided.  Each comparison of a table has Holm's adjusted p besides its own, which keeps the
chance of any false claim in the table at its level; SciPy has only Benjamini and Hochberg's correction, which does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qalof.errors import BadInputError
from qalof.statistics import Interval, paired_difference

FLIPS = 9999
"""How many random sign flips a permutation test tries; where there are fewer, all of them are tried."""


@dataclass(frozen=True)
class Comparison:
    """``first`` against ``second`` on the same examples."""

    first: str
    """What is compared."""
    second: str
    """What it is compared with."""
    difference: Interval
    """The mean of first minus second, with a 95 % paired bootstrap over examples."""
    examples: int
    """The examples that both have a value for."""
    test: str
    """The test: ``McNemar, exact`` or ``sign flips by example``."""
    p: float
    """The two-sided p of this comparison alone."""
    adjusted_p: float
    """The p-value after Holm's correction over all comparisons of the table."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict; :meth:`from_json` reads it back."""
        return asdict(self) | {"difference": self.difference.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read the form of :meth:`to_json`."""
        return cls(**{**data, "difference": Interval.from_json(data["difference"])})


def compare(values: Mapping[str, ArrayLike], pairs: Sequence[tuple[str, str]], seed: int = 0) -> tuple[Comparison, ...]:
    """Compare pairs of named ways; all pairs are one table.

    Args:
        values: a value in [0, 1] per example, in one order; NaN where a way has none for an example.
        pairs: the names to compare.
        seed: of resamples and sign flips.

    Raises:
        BadInputError: two ways of a pair have other numbers of examples, or none in common.
    """
    found = [_compared(values, first, second, seed) for first, second in pairs]
    adjusted = holm([each.p for each in found])
    return tuple(replace(each, adjusted_p=value) for each, value in zip(found, adjusted, strict=True))


def paired_p(first: ArrayLike, second: ArrayLike, seed: int = 0) -> tuple[float, str]:
    """Return the two-sided p of a difference between paired values, and the name of the test."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        return mcnemar(a == 1, b == 1), "McNemar, exact"
    return _sign_flips(a - b, seed), "sign flips by example"


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the two-sided p of McNemar's exact test; 1 where no example differs."""
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    differing = only_first + only_second
    return float(binomtest(only_first, differing, 0.5).pvalue) if differing else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values: the i-th smallest of m times (m - i), never falling, at most 1."""
    count = len(p_values)
    adjusted, highest = [0.0] * count, 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _sign_flips(differences: NDArray[np.float64], seed: int) -> float:
    from scipy.stats import permutation_test

    moved = differences[differences != 0]  # an example that does not differ says nothing, whatever its sign
    if not len(moved):
        return 1.0
    if len(moved) == 1:
        return 1.0  # either sign of a single difference is as extreme as the other
    found = permutation_test(
        (moved,), lambda sample, axis: sample.mean(axis=axis), permutation_type="samples", n_resamples=FLIPS,
        vectorized=True, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def _compared(values: Mapping[str, ArrayLike], first: str, second: str, seed: int) -> Comparison:
    a, b = (np.asarray(values[name], dtype=np.float64) for name in (first, second))
    if a.shape != b.shape:
        raise BadInputError(f"a comparison needs the same examples: {first} has {len(a)} and {second} {len(b)}")
    both = ~(np.isnan(a) | np.isnan(b))
    if not both.any():
        raise BadInputError(f"a comparison needs an example that both {first} and {second} have a value for: got none")
    p, test = paired_p(a[both], b[both], seed)
    difference = paired_difference(a[both].tolist(), b[both].tolist(), seed=seed)
    return Comparison(first, second, difference, int(both.sum()), test, p, p)
