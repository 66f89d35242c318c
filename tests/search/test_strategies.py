"""What every strategy owes a search; a new one is in this suite by being in the registry."""

import pytest

import search
from qalof.errors import BadInputError
from search import STRATEGIES, BitmapSpace

OBJECTIVES = ("max:f1", "min:weight_bytes")
LIMITS = [{}, {"average_bits": 4.5}, {"average_bits": 3.1, "kv_bytes_per_token": 28}]


@pytest.fixture(params=sorted(STRATEGIES))
def strategy(request):
    return request.param


@pytest.fixture
def space(sites):
    return BitmapSpace.of(sites, weight=(2, 4, 8))


def table(result):
    return [(str(point.bitmap), point.values) for point in result.points], list(result.trace)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_the_budget_is_never_exceeded(strategy, space, make_evaluator, limits):
    evaluator = make_evaluator(space.sites)
    search.run(space, evaluator, OBJECTIVES, strategy, 40, limits)
    assert evaluator.seen
    for bitmap in evaluator.seen:
        cost = space.cost(bitmap).as_metrics()
        assert all(cost[name] <= limit for name, limit in limits.items())


def test_no_bitmap_is_evaluated_twice_and_the_count_is_kept(strategy, space, make_evaluator):
    evaluator = make_evaluator(space.sites)
    result = search.run(space, evaluator, OBJECTIVES, strategy, 21)
    assert len(evaluator.seen) == len(set(evaluator.seen)) == len(result.points) <= 21


def test_the_same_seed_gives_the_same_search(strategy, space, make_evaluator):
    runs = [search.run(space, make_evaluator(space.sites), OBJECTIVES, strategy, 30, seed=5) for _ in range(2)]
    assert table(runs[0]) == table(runs[1])


def test_how_many_work_at_once_changes_nothing(strategy, space, make_evaluator):
    runs = [search.run(space, make_evaluator(space.sites, at_once=n), OBJECTIVES, strategy, 30) for n in (1, 3)]
    assert table(runs[0]) == table(runs[1])


@pytest.mark.parametrize("cut", [1, 13])
def test_a_search_cut_off_and_resumed_ends_like_the_undisturbed_one(strategy, space, make_evaluator, tmp_path, cut):
    undisturbed = search.run(space, make_evaluator(space.sites), OBJECTIVES, strategy, 26)
    storage, evaluator = tmp_path / "record.jsonl", make_evaluator(space.sites)
    evaluator.fail_at = cut
    with pytest.raises(KeyboardInterrupt):
        search.run(space, evaluator, OBJECTIVES, strategy, 26, storage=storage)
    evaluator.fail_at = None
    resumed = search.run(space, evaluator, OBJECTIVES, strategy, 26, storage=storage)
    assert table(resumed) == table(undisturbed)
    assert len(evaluator.seen) == len(undisturbed.points)


def test_a_small_space_is_exhausted_and_the_search_ends(strategy, plain_sites, make_evaluator):
    evaluator = make_evaluator(plain_sites)
    result = search.run(BitmapSpace.of(plain_sites, weight=(4, 8)), evaluator, OBJECTIVES, strategy, 1000)
    assert len(result.points) <= 8
    if strategy in ("tpe", "nsga2", "random"):
        assert len(result.points) == 8


def test_a_space_of_one_bitmap_is_searched(strategy, plain_sites, make_evaluator):
    result = search.run(BitmapSpace.of(plain_sites, weight=(4,)), make_evaluator(plain_sites), OBJECTIVES, strategy, 9)
    assert [str(point.bitmap) for point in result.points] == ["4"]


def test_one_objective_is_enough(strategy, space, make_evaluator):
    result = search.run(space, make_evaluator(space.sites), ("max:f1",), strategy, 12)
    assert str(result.best().bitmap) == "8"


def test_a_collapsed_bitmap_does_not_stop_the_search(strategy, space, make_evaluator):
    evaluator = make_evaluator(space.sites, {site.name: float("nan") for site in space.sites})
    result = search.run(space, evaluator, OBJECTIVES, strategy, 12, max_failures_in_a_row=None)
    assert len(result.points) == 12
    assert result.front.empty


def test_tied_blocks_stay_tied(strategy, sites, make_evaluator):
    evaluator = make_evaluator(sites)
    search.run(BitmapSpace.of(sites, weight=(2, 4, 8), group="block"), evaluator, OBJECTIVES, strategy, 9)
    for bitmap in evaluator.seen:
        layers = list(bitmap.values())
        assert len(set(layers[:4])) == len(set(layers[4:])) == 1


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random"])
def test_the_first_generation_holds_the_uniform_bitmaps(space, make_evaluator, name):
    evaluator = make_evaluator(space.sites)
    search.run(space, evaluator, OBJECTIVES, name, 8)
    assert set(space.uniform()) <= set(evaluator.seen)


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random"])
def test_another_seed_gives_another_search(space, make_evaluator, name):
    runs = [search.run(space, make_evaluator(space.sites), OBJECTIVES, name, 16, seed=seed) for seed in (1, 2)]
    assert table(runs[0]) != table(runs[1])


def test_an_unknown_strategy_names_the_nearest(space, make_evaluator):
    with pytest.raises(BadInputError, match="no strategy 'nsga3'; did you mean 'nsga2'"):
        search.run(space, make_evaluator(space.sites), strategy="nsga3")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tpe", {"generation_sise": 4}, "did you mean 'generation_size'"),
        ("tpe", {"generation_size": 0}, "generation_size must be a whole number of at least 1"),
        ("greedy", {"budget": -1}, "budget must be a number of at least 0"),
        ("greedy", {"budget_kind": "share"}, "'relative' or 'absolute'"),
        ("greedy", {"start": 16}, "must have one of the space's choices"),
        ("greedy", {"sensitivity": {"h.9.a": {4: 1.0}}}, "must name units"),
        ("greedy", {"sensitivity": {}}, "must have a number for"),
        ("one_at_a_time", {"reference": 16}, "must have one of the space's choices"),
        ("one_at_a_time", {"reference": 4, "to": (8,)}, "below the reference"),
    ],
)
def test_unusable_options_are_refused_before_anything_is_evaluated(space, make_evaluator, name, options, message):
    evaluator = make_evaluator(space.sites)
    with pytest.raises(BadInputError, match=message):
        search.run(space, evaluator, strategy=name, options=options)
    assert not evaluator.seen


@pytest.mark.parametrize("name", ["greedy", "one_at_a_time"])
def test_baselines_want_a_measured_objective(space, make_evaluator, name):
    with pytest.raises(BadInputError, match="an objective that is measured"):
        search.run(space, make_evaluator(space.sites), ("min:weight_bytes",), name)
