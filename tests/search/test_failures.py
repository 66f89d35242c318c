"""A bitmap that raises or gives NaN is a failed trial: every strategy goes on, and the reason is kept."""

import json
import math

import pytest

import search
from qalof.errors import BadInputError
from search import STRATEGIES, BitmapSpace, SearchResult
from search.failure import TooManyFailures

OBJECTIVES = ("max:f1", "min:weight_bytes")


class Breaking:
    """A formula's evaluator that breaks at some bitmaps in a way of its own."""

    def __init__(self, inner, breaks, how):
        self.inner, self.breaks, self.how = inner, breaks, how
        self.sites, self.at_once, self.limit, self.tried = inner.sites, inner.at_once, inner.limit, []

    def fingerprint(self):
        return "breaking"

    def measure(self, wanted):
        return self.inner.measure(wanted)

    def evaluate(self, bitmaps, limit=None):
        return [self._one(bitmap) for bitmap in bitmaps]

    def _one(self, bitmap):
        self.tried.append(bitmap)
        found = self.inner.evaluate([bitmap])[0]
        if self.breaks(bitmap):
            if isinstance(self.how, Exception):
                raise self.how
            found.metrics["f1"] = self.how
            found.metrics["loss"] = -self.how
        return found


WAYS = {
    "raises": (ZeroDivisionError("no scale"), "ZeroDivisionError: no scale"),
    "NaN": (math.nan, "f1 is nan"),
    "infinite": (math.inf, "f1 is inf"),
    "no memory": (MemoryError("8 GB"), "out of memory"),
}


@pytest.fixture
def space(sites):
    return BitmapSpace.of(sites, weight=(2, 4, 8))


@pytest.fixture(params=sorted(STRATEGIES))
def strategy(request):
    return request.param


def first_site_is_low(bitmap):
    return next(iter(bitmap.values())).weight == 2


def fails_at(bits):
    return lambda bitmap: str(bitmap) == str(bits)


@pytest.mark.parametrize(("way", "at_once"), [("raises", 3), ("NaN", 1), ("infinite", 1), ("no memory", 1)])
def test_a_bitmap_that_fails_is_a_failed_trial_and_every_strategy_goes_on(
    strategy, space, make_evaluator, way, at_once
):
    how, reason = WAYS[way]
    evaluator = Breaking(make_evaluator(space.sites, at_once=at_once, per_example=True), first_site_is_low, how)
    result = search.run(space, evaluator, OBJECTIVES, strategy, 24, max_failures_in_a_row=None)
    assert result.failures
    assert len(result.points) > len(result.failures)
    for point in result.points:
        assert point.failure.startswith(reason) if first_site_is_low(point.bitmap) else not point.failure
    good = [point for point in result.points if not point.failure]
    assert result.front_points
    assert not any(point.failure for point in result.front_points)
    assert result.best().values[0] == max(point.values[0] for point in good)


def test_a_saved_result_keeps_the_reasons(space, make_evaluator, tmp_path):
    evaluator = Breaking(make_evaluator(space.sites), fails_at(2), ValueError("broken"))
    search.run(space, evaluator, OBJECTIVES, "random", 9).save(tmp_path)
    found = SearchResult.load(tmp_path)
    assert [(str(point.bitmap), point.failure) for point in found.failures] == [("2", "ValueError: broken")]


def test_where_nothing_was_scored_the_best_bitmap_is_refused_with_the_last_reason(space, make_evaluator):
    evaluator = Breaking(make_evaluator(space.sites), lambda bitmap: True, ValueError("broken"))
    result = search.run(space, evaluator, OBJECTIVES, "random", 3)
    with pytest.raises(BadInputError, match="none has one, since ValueError: broken"):
        result.best()


@pytest.mark.parametrize("which", [2, 4, 8])
def test_no_strategy_needs_any_one_bitmap(strategy, space, make_evaluator, which):
    evaluator = Breaking(make_evaluator(space.sites), fails_at(which), ValueError("broken"))
    result = search.run(space, evaluator, OBJECTIVES, strategy, 16)
    assert len(result.points) > 1
    assert {str(point.bitmap) for point in result.failures} <= {str(which)}
    json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.parametrize("way", ["raises", "NaN"])
def test_a_failure_stands_in_the_record_and_is_not_tried_again(strategy, space, make_evaluator, tmp_path, way):
    storage = tmp_path / "record.jsonl"

    def once(count):
        evaluator = Breaking(make_evaluator(space.sites), first_site_is_low, WAYS[way][0])
        given = {"storage": storage, "max_failures_in_a_row": None}
        return evaluator, search.run(space, evaluator, OBJECTIVES, strategy, count, **given)

    first, one = once(12)
    again, two = once(12)
    assert first.tried
    assert not again.tried
    assert [(p.bitmap, p.failure) for p in one.points] == [(p.bitmap, p.failure) for p in two.points]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")], ids=repr
)
def test_a_bitmap_without_memory_is_tried_again_by_the_next_run(space, make_evaluator, tmp_path, error):
    storage = tmp_path / "record.jsonl"
    search.run(space, Breaking(make_evaluator(space.sites), fails_at(2), error), OBJECTIVES, "tpe", 9, storage=storage)
    again = Breaking(make_evaluator(space.sites), fails_at(0), error)
    result = search.run(space, again, OBJECTIVES, "tpe", 9, storage=storage)
    assert [str(bitmap) for bitmap in again.tried] == ["2"]
    assert not result.failures


@pytest.mark.parametrize("way", ["raises", "NaN"])
def test_failures_in_a_row_end_the_search_with_the_cause_and_the_next_run_goes_on(
    strategy, space, make_evaluator, tmp_path, way
):
    how, reason = WAYS[way]
    storage = tmp_path / "record.jsonl"
    given = {"storage": storage, "max_failures_in_a_row": 3}
    evaluator = Breaking(make_evaluator(space.sites), lambda bitmap: True, how)
    with pytest.raises(TooManyFailures, match=r"the last 3 failed.*max_failures_in_a_row") as raised:
        search.run(space, evaluator, OBJECTIVES, strategy, 24, **given)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(evaluator.tried) == 3
    mended = make_evaluator(space.sites)
    mended.fingerprint = evaluator.fingerprint
    assert search.run(space, mended, OBJECTIVES, strategy, 24, **given).front_points


def test_single_failures_never_add_up_to_the_end(space, make_evaluator):
    turns = iter(range(1000))
    evaluator = Breaking(make_evaluator(space.sites), lambda bitmap: next(turns) % 2 == 1, ValueError("odd"))
    result = search.run(space, evaluator, OBJECTIVES, "random", 24, max_failures_in_a_row=2)
    assert len(result.failures) == 12


@pytest.mark.parametrize(
    "error",
    [
        BadInputError("a text must be UTF-8"),
        FileNotFoundError("data.txt"),
        PermissionError("x"),
        ImportError("no peft"),
    ],
    ids=repr,
)
def test_what_would_meet_every_bitmap_ends_the_search_as_it_was_raised(strategy, space, make_evaluator, error):
    for at_once in (1, 3):
        evaluator = Breaking(make_evaluator(space.sites, at_once=at_once), lambda bitmap: True, error)
        with pytest.raises(type(error)) as raised:
            search.run(space, evaluator, OBJECTIVES, strategy, 24)
        assert raised.value is error


def test_a_cheap_failure_is_on_no_front_where_all_objectives_are_costs(space, make_evaluator):
    evaluator = Breaking(make_evaluator(space.sites), fails_at(2), ValueError("broken"))
    result = search.run(space, evaluator, ("min:weight_bytes",), "random", 9)
    assert [str(point.bitmap) for point in result.failures] == ["2"]
    assert "2" not in {str(point.bitmap) for point in result.front_points}


@pytest.mark.parametrize("most", [0, -1, 1.5, True])
def test_a_number_of_failures_below_one_is_refused(space, make_evaluator, most):
    with pytest.raises(BadInputError, match="max_failures_in_a_row must be a whole number of at least 1"):
        search.run(space, make_evaluator(space.sites), OBJECTIVES, "random", 9, max_failures_in_a_row=most)
