import pytest

from qalof.errors import BadInputError
from qalof.statistics import Interval, bootstrap_mean, bootstrap_ratio, paired_difference, wilson


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
