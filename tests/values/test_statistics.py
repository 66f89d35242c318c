import json
import math
import re
import warnings
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap

from qalof.errors import BadInputError
from qalof.statistics import RESAMPLES, Interval, bootstrap_mean, bootstrap_ratio, paired_difference, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(7, 19, 0.19, 0.59), (9, 19, 0.27, 0.68), (15, 25, 0.41, 0.77), (3, 100, 0.010, 0.085), (6, 100, 0.028, 0.125)],
)
def test_wilson_gives_the_known_bounds(successes, trials, low, high):
    interval = wilson(successes, trials)
    assert interval.estimate == successes / trials
    assert (interval.low, interval.high) == (pytest.approx(low, abs=0.005), pytest.approx(high, abs=0.005))


def test_wilson_of_nothing_tried_is_everything():
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


def test_more_successes_than_trials_are_refused():
    with pytest.raises(BadInputError, match="between 0 and trials"):
        wilson(3, 2)


def test_bootstrap_is_deterministic_and_holds_the_mean():
    values = [0.0, 100.0] * 50
    first, second = bootstrap_mean(values), bootstrap_mean(values)
    assert first == second
    assert first.low < first.estimate == 50.0 < first.high
    # the normal approximation: 1.96 * 50 / sqrt(100)
    assert first.high - first.low == pytest.approx(19.6, abs=1.5)


def test_constant_difference_has_no_width():
    interval = paired_difference([3.0, 4.0, 5.0], [1.0, 2.0, 3.0])
    assert (interval.low, interval.estimate, interval.high) == (2.0, 2.0, 2.0)


def test_unpaired_lists_are_refused():
    with pytest.raises(BadInputError, match="same examples"):
        paired_difference([1.0], [1.0, 2.0])


def test_a_ratio_is_of_sums_and_its_bootstrap_resamples_both():
    assert bootstrap_ratio([2.0, 6.0], [1.0, 3.0]) == Interval(2.0, 2.0, 2.0), "the same ratio in every example"
    # two examples: one pair of draws in four is both of one, so the bounds are those examples' own ratios
    assert bootstrap_ratio([1.0, 6.0], [1.0, 3.0]) == Interval(7 / 4, 1.0, 2.0)
    # a long example weighs as its length: the mean of ratios would be 5.5
    assert bootstrap_ratio([10.0, 99.0], [1.0, 99.0]).estimate == 1.09


def test_a_ratio_with_equal_denominators_is_the_mean():
    values = [0.0, 1.0, 5.0, 2.5]
    assert bootstrap_ratio(values, [1.0] * 4) == bootstrap_mean(values)


def test_examples_without_a_denominator_change_no_bound_of_the_ratio_but_how_many_are_drawn():
    interval = bootstrap_ratio([3.0, 0.0], [1.0, 0.0])
    assert interval == Interval(3.0, 3.0, 3.0), "resamples without any denominator say nothing"


@pytest.mark.parametrize(
    ("below", "law"), [([1.0], "each numerator"), ([0.0, 0.0], "all 0"), ([-1.0, 2.0], "at least 0")]
)
def test_denominators_that_cannot_be_are_refused(below, law):
    with pytest.raises(BadInputError, match=law):
        bootstrap_ratio([1.0, 2.0], below)


@pytest.mark.parametrize("trials", [1, 19, 400])
def test_wilson_at_whole_numbers_is_scipys(trials):
    for successes in range(trials + 1):
        ours, theirs = wilson(successes, trials), binomtest(successes, trials).proportion_ci(0.95, "wilson")
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-15)


@pytest.mark.parametrize("examples", [2, 57, 300])
def test_the_bootstrap_is_scipys_with_the_same_seed(examples):
    values = np.random.default_rng(3).normal(size=examples)
    ours = bootstrap_mean(values, seed=7)
    rng = np.random.default_rng(7)
    theirs = bootstrap((values,), np.mean, n_resamples=RESAMPLES, batch=100, method="percentile", rng=rng)
    low, high = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((low, high), rel=1e-12)


def test_recorded_intervals_are_found_again():
    # written by versions that drew the resamples by themselves
    values = [0.0, 100.0, 50.0, 25.0, 75.0, 60.0, 10.0]
    mean = astuple(bootstrap_mean(values))
    assert mean == pytest.approx((45.714285714285715, 20.714285714285715, 69.28571428571429), rel=1e-14)
    ratio = astuple(bootstrap_ratio(values, [1, 2, 3, 4, 5, 6, 0]))
    assert ratio == pytest.approx((15.238095238095237, 9.090909090909092, 26.75), rel=1e-14)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_bounds_and_is_null_in_json(value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap_mean([value, 1.0, 2.0])
    assert found.to_json() == [None, None, None]
    assert all(map(math.isnan, astuple(Interval.from_json(found.to_json()))))


@given(*[st.floats(allow_nan=False, allow_infinity=False)] * 3)
def test_an_interval_is_read_back_as_it_was_written(estimate, low, high):
    interval = Interval(estimate, low, high)
    assert Interval.from_json(json.loads(json.dumps(interval.to_json()))) == interval
    assert Interval.from_columns(interval.to_columns("f1"), "f1") == interval


@pytest.mark.parametrize("data", [[1.0, 2.0], [1.0, 2.0, 3.0, 4.0], ["a", 1.0, 2.0], None])
def test_what_is_no_interval_is_refused(data):
    with pytest.raises((TypeError, ValueError)):
        Interval.from_json(data)


def test_intervals_are_written_and_read_in_one_place():
    """The form ``[estimate, low, high]`` is :class:`Interval`'s own, so nobody else spells it out."""
    root = Path(__file__).resolve().parents[2]
    spelled = re.compile(r"\w\.estimate, \w+(\.\w+)*\.low, \w+(\.\w+)*\.high\]|Interval\(\*map\(")
    files = [path for wing in ("qalof", "search", "orchestrate") for path in (root / wing).rglob("*.py")]
    assert [str(path) for path in files if spelled.search(path.read_text()) and path.name != "statistics.py"] == []
