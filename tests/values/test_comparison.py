"""Paired tests and their correction, against SciPy and by their laws."""

import itertools
import json

import numpy as np
import pytest
from scipy.stats import binomtest

from qalof.comparison import Comparison, compare, holm, mcnemar, paired_p
from qalof.errors import BadInputError


def test_mcnemar_is_the_binomial_test_of_the_examples_that_differ() -> None:
    for only_first, only_second, both in itertools.product((0, 1, 5, 9), (0, 3, 9), (0, 7)):
        first = np.array([True] * only_first + [False] * only_second + [True] * both, dtype=bool)
        second = np.array([False] * only_first + [True] * only_second + [True] * both, dtype=bool)
        moved = only_first + only_second
        expected = binomtest(only_first, moved, 0.5).pvalue if moved else 1.0
        assert mcnemar(first, second) == pytest.approx(expected)
        assert mcnemar(second, first) == pytest.approx(expected)


def test_sign_flips_of_few_examples_are_counted_exactly() -> None:
    differences = np.array([0.1, 0.4, 0.3, -0.2, 0.25])
    p, name = paired_p(0.5 + differences / 2, 0.5 - differences / 2)
    means = [abs((differences * signs).mean()) for signs in itertools.product((1, -1), repeat=5)]
    assert p == pytest.approx(np.mean(np.array(means) >= abs(differences.mean()) - 1e-12))
    assert name == "sign flips by example"


def test_more_draws_of_the_same_examples_make_no_difference_surer() -> None:
    rng = np.random.default_rng(0)
    few = rng.random((30, 4)) < rng.random((30, 1))
    other = rng.random((30, 4)) < 0.4
    many = np.repeat(few, 10, axis=1), np.repeat(other, 10, axis=1)
    assert paired_p(few.mean(1), other.mean(1))[0] == paired_p(many[0].mean(1), many[1].mean(1))[0]


def test_under_the_null_small_p_are_as_rare_as_they_say() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        a, b = (rng.binomial(4, 0.5, size=9) / 4 for _ in range(2))
        found.append(paired_p(a, b)[0])
    assert np.mean(np.array(found) <= 0.05) <= 0.09


@pytest.mark.parametrize("p_values", [[0.01, 0.04, 0.03, 0.005], [0.5], [], [0.02, 0.02, 0.9], [1.0, 1.0]])
def test_holm_never_lowers_a_p_keeps_the_order_and_is_bonferroni_for_the_smallest(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)
    if p_values:
        assert min(adjusted) == pytest.approx(min(1, len(p_values) * min(p_values)))


def test_a_known_table_of_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_a_table_corrects_over_its_pairs_and_leaves_out_examples_that_one_side_lacks() -> None:
    rng = np.random.default_rng(2)
    values = {
        "a": (rng.random(60) < 0.9).astype(float), "b": (rng.random(60) < 0.3).astype(float), "c": rng.random(60),
    }  # fmt: skip
    values["b"][:10] = np.nan
    found = compare(values, [("a", "b"), ("a", "c"), ("b", "c")])
    assert [each.examples for each in found] == [50, 60, 50]
    assert [each.test for each in found] == ["McNemar, exact", *["sign flips by example"] * 2]
    assert [each.adjusted_p for each in found] == holm([each.p for each in found])
    for each in found:
        both = ~np.isnan(values[each.first]) & ~np.isnan(values[each.second])
        mean = (values[each.first] - values[each.second])[both].mean()
        assert each.difference.estimate == pytest.approx(mean)
        assert each.difference.low <= mean <= each.difference.high
        assert Comparison.from_json(json.loads(json.dumps(each.to_json()))) == each
    assert found[0].adjusted_p < 0.01
    assert compare({"a": values["a"], "b": values["a"]}, [("a", "b")])[0].p == 1


def test_other_examples_or_none_in_common_are_refused() -> None:
    with pytest.raises(BadInputError, match="a has 2 and b 3"):
        compare({"a": [0, 1], "b": [0, 1, 1]}, [("a", "b")])
    with pytest.raises(BadInputError, match="got none"):
        compare({"a": [np.nan, 1], "b": [0, np.nan]}, [("a", "b")])
