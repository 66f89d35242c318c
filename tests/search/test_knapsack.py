"""The knapsack: the exact solution is the best of all, and the fast one is near it."""

import itertools
import math
import random
import time

import pytest

from qalof.errors import BadInputError
from search.allocation.knapsack import exact, lagrangian, total


def drawn(seed: int, units: int, choices: int, limits: int = 1) -> tuple[list[list[float]], list[list[list[float]]]]:
    rng = random.Random(seed)
    damages, prices = [], [[] for _ in range(limits)]
    for _ in range(units):
        scale = 10 ** rng.uniform(-6, 2)
        damages.append(sorted((scale * rng.random() for _ in range(choices)), reverse=True))
        for rows in prices:
            size = rng.randint(1, 50)
            rows.append([size * (index + 1.0) for index in range(choices)])
    return damages, prices


def enumerated(damages, prices, limits):
    feasible = (
        picks
        for picks in itertools.product(*(range(len(row)) for row in damages))
        if all(total(rows, picks) <= limit for rows, limit in zip(prices, limits, strict=True))
    )
    return min((total(damages, picks) for picks in feasible), default=None)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("limits", [1, 2, 3])
def test_the_exact_solution_is_the_best_of_all_that_keep_the_limits(seed, limits):
    damages, prices = drawn(seed, 5, 4, limits)
    share = random.Random(seed + 100).uniform(0.3, 0.9)
    given = [share * sum(row[-1] for row in rows) for rows in prices]
    best = enumerated(damages, prices, given)
    if best is None:
        with pytest.raises(BadInputError, match="keep the limits together"):
            exact(damages, prices, given)
        return
    picks = exact(damages, prices, given)
    assert all(total(rows, picks) <= limit * (1 + 1e-9) for rows, limit in zip(prices, given, strict=True))
    assert total(damages, picks) == pytest.approx(best, rel=1e-5, abs=1e-9 * max(map(max, damages)))


@pytest.mark.parametrize("seed", range(8))
def test_the_fast_solution_is_within_a_percent_of_the_exact_one_and_keeps_the_limit(seed):
    damages, (prices,) = drawn(seed, 210, 6)
    limit = 0.6 * sum(row[-1] for row in prices)
    fast, best = lagrangian(damages, prices, limit), exact(damages, [prices], [limit])
    assert total(prices, fast) <= limit * (1 + 1e-9)
    assert total(damages, best) <= total(damages, fast) * (1 + 1e-6)
    assert total(damages, fast) <= 1.01 * total(damages, best) + 1e-9


def test_a_limit_that_binds_nothing_gives_every_unit_its_least_damage():
    damages, (prices,) = drawn(3, 20, 4)
    limit = sum(row[-1] for row in prices)
    assert lagrangian(damages, prices, limit) == exact(damages, [prices], [limit]) == (3,) * 20


def test_a_forbidden_choice_is_never_taken():
    damages, (prices,) = drawn(5, 30, 4)
    for row in damages[::2]:
        row[3] = math.inf
    limit = sum(row[-1] for row in prices)
    for picks in (lagrangian(damages, prices, limit), exact(damages, [prices], [limit])):
        assert all(pick != 3 for pick in picks[::2])


def test_negative_damages_are_gains():
    damages = [[0.0, -1.0], [0.0, -3.0], [0.0, 2.0]]
    assert exact(damages, [[[0.0, 1.0]] * 3], [1.0]) == (0, 1, 0)


@pytest.mark.parametrize("solve", [lambda d, p, limit: exact(d, [p], [limit]), lagrangian], ids=["exact", "lagrangian"])
def test_a_limit_below_the_cheapest_choices_is_refused_with_what_they_take(solve):
    damages, (prices,) = drawn(1, 4, 3)
    with pytest.raises(BadInputError, match="the cheapest take at least"):
        solve(damages, prices, 0.5 * sum(row[0] for row in prices))


@pytest.mark.parametrize("row", [[math.inf, math.inf], [math.nan, 1.0]])
def test_a_unit_without_a_choice_is_refused(row):
    with pytest.raises(BadInputError, match="unit 0 has"):
        exact([row], [[[1.0, 2.0]]], [5.0])


def test_all_budgets_of_a_model_of_210_sites_take_seconds_at_most():
    damages, (prices,) = drawn(7, 210, 6)
    top = sum(row[-1] for row in prices)
    start = time.process_time()
    for share in (0.4, 0.5, 0.6, 0.7, 0.8):
        lagrangian(damages, prices, share * top)
    assert time.process_time() - start < 2.0
