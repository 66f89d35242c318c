"""``tpe`` and ``nsga2`` start from the knapsack's bitmaps where they are told to, and few evaluations are said."""

import logging

import pytest

import search
from search.allocation.damage import damages_of, roles_of, spread_front
from search.measurement import ScoresWanted
from search.scores.table import ScoreTable

OBJECTIVES = ("max:f1", "min:weight_bytes")
LIMITS = [{}, {"average_bits": 4.5}]


@pytest.fixture
def space(sites):
    return search.BitmapSpace.of(sites, weight=(2, 4, 8), activation=(8,), kv=None)


def fronts(space, evaluator):
    table = ScoreTable.from_json(evaluator.measure(ScoresWanted("fisher", roles_of(space), None, 0)))
    return spread_front(space, damages_of(space, table))


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_the_knapsack_bitmaps_come_before_the_sampler_s_own(space, make_evaluator, name, limits):
    evaluator = make_evaluator(space.sites)
    options = {"warm_start": True, "generation_size": 4}
    result = search.run(space, evaluator, OBJECTIVES, name, 12, limits, options=options)
    inner = space.within(limits)
    wanted = dict.fromkeys([*inner.uniform(), *fronts(inner, make_evaluator(space.sites))])
    assert len(wanted) > len(inner.uniform())
    assert [point.bitmap for point in result.points][: len(wanted)] == list(wanted)[:12]
    assert len(evaluator.measured) == 1


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_nothing_is_measured_without_a_warm_start(space, make_evaluator, name):
    evaluator = make_evaluator(space.sites)
    search.run(space, evaluator, OBJECTIVES, name, 6)
    assert not evaluator.measured


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_the_front_s_bitmaps_keep_the_limits_and_cost_more_and_more(space, make_evaluator, limits):
    inner = space.within(limits)
    found = fronts(inner, make_evaluator(space.sites))
    assert all(inner.fits(bitmap) for bitmap in found)
    bits = [inner.cost(bitmap).average_bits for bitmap in found]
    assert bits == sorted(bits)
    assert len(set(found)) == len(found) > 1


@pytest.mark.parametrize("name", sorted(search.STRATEGIES))
def test_fewer_evaluations_than_units_are_said_of_strategies_that_know_nothing_of_units(
    space, make_evaluator, caplog, name
):
    for evaluations in (len(space.units) - 1, len(space.units)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            search.run(space, make_evaluator(space.sites), OBJECTIVES, name, evaluations)
        few = evaluations < len(space.units) and name in ("tpe", "nsga2", "random", "evolutionary")
        assert ("few evaluations for so many sites" in caplog.text) is few
