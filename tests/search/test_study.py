import itertools

import pytest

import search
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from search import BitmapSpace, Study
from search.strategies import STRATEGIES

OBJECTIVES = ("max:f1", "min:weight_bytes")


@pytest.fixture
def space(sites):
    return BitmapSpace.of(sites, weight=(2, 4, 8))


@pytest.fixture
def evaluate(sites, make_evaluator):
    evaluator = make_evaluator(sites)
    return lambda bitmap: evaluator.evaluate([bitmap])[0]


def drive(study, evaluate, order=list):
    while waiting := study.ask():
        for bitmap in order(waiting):
            study.tell(bitmap, evaluate(bitmap))
    return study.result()


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_the_order_of_telling_changes_nothing(space, evaluate, strategy):
    forward = drive(Study(space, OBJECTIVES, strategy, max_evaluations=30), evaluate)
    backward = drive(Study(space, OBJECTIVES, strategy, max_evaluations=30), evaluate, lambda waiting: waiting[::-1])
    assert forward == backward


def test_a_generation_stays_open_until_all_of_it_is_told(space, evaluate):
    study = Study(space, OBJECTIVES)
    first = study.ask()
    assert len(first) == 8
    study.tell(first[3], evaluate(first[3]))
    assert study.ask() == first[:3] + first[4:]
    assert study.evaluations == 1


def test_the_best_so_far_is_there_at_any_moment(space, evaluate):
    study = Study(space, OBJECTIVES)
    for count, bitmap in enumerate(study.ask()[::-1], start=1):
        study.tell(bitmap, evaluate(bitmap))
        result = study.result()
        assert len(result.points) == count
        assert result.best().values[0] == max(point.values[0] for point in result.points)


def test_only_what_was_given_out_can_be_told(space, evaluate):
    study = Study(space, OBJECTIVES)
    bitmap = study.ask()[0]
    study.tell(bitmap, evaluate(bitmap))
    for stranger in (bitmap, Bitmap.uniform(bitmap.sites, 16)):
        with pytest.raises(ValueError, match="tell must follow ask"):
            study.tell(stranger, evaluate(stranger))


def test_known_evaluations_are_counted_and_scored_and_not_given_out(space, evaluate):
    heard = []
    uniform = space.uniform()
    study = Study(space, OBJECTIVES, max_evaluations=8, known={b: evaluate(b) for b in uniform}, on_score=heard.append)
    given_out = study.ask()
    assert not set(given_out) & set(uniform)
    result = drive(study, evaluate)
    assert study.evaluations == len(result.points) == len(heard) == 8
    assert study.done


@pytest.mark.parametrize("count", [1, 7, 8, 9])
def test_the_count_of_evaluations_is_met_exactly(space, evaluate, count):
    assert len(drive(Study(space, OBJECTIVES, max_evaluations=count), evaluate).points) == count


def test_a_shorter_search_is_the_beginning_of_a_longer_one(space, evaluate):
    short, long = (drive(Study(space, OBJECTIVES, max_evaluations=count), evaluate) for count in (11, 24))
    assert long.points[:11] == short.points


def test_a_strategy_that_breaks_the_budget_is_stopped_before_evaluation(space, monkeypatch):
    def wild(context):
        yield [context.space.bitmap([2] * len(context.space.units))]

    monkeypatch.setitem(STRATEGIES, "wild", wild)
    with pytest.raises(RuntimeError, match="wild must stay within the limits"):
        Study(space.within({"average_bits": 4}), OBJECTIVES, "wild")


def test_repeats_in_a_generation_are_evaluated_once_and_told_in_place(space, evaluate, monkeypatch):
    heard = []

    def echo(context):
        low, _, high = context.space.uniform()
        heard.extend((yield [low, high, low]))
        heard.extend((yield [high]))

    monkeypatch.setitem(STRATEGIES, "echo", echo)
    assert len(drive(Study(space, OBJECTIVES, "echo"), evaluate).points) == 2
    assert [str(score.bitmap) for score in heard] == ["2", "8", "2", "8"]


def test_a_metric_that_is_not_measured_names_the_nearest(space, sites, make_evaluator):
    with pytest.raises(BadInputError, match="got min:los; did you mean 'loss'"):
        search.run(space, make_evaluator(sites), ("min:los",))


@pytest.mark.parametrize("count", [0, -1, 2.5, True])
def test_a_count_that_is_none_is_refused(space, count):
    with pytest.raises(BadInputError, match="max_evaluations must be a whole number of at least 1"):
        Study(space, OBJECTIVES, max_evaluations=count)


def test_a_budget_out_of_reach_is_refused_before_anything_is_evaluated(space, make_evaluator):
    evaluator = make_evaluator(space.sites)
    with pytest.raises(BadInputError, match="goes from 2 to 8"):
        search.run(space, evaluator, limits={"average_bits": 1.9})
    assert not evaluator.seen


def test_a_space_of_another_model_is_refused(space, plain_sites, make_evaluator):
    with pytest.raises(BadInputError, match="made of the evaluator's model"):
        search.run(space, make_evaluator(plain_sites))


def test_a_record_serves_another_strategy_but_not_another_model(space, make_evaluator, tmp_path):
    storage, first = tmp_path / "record.jsonl", make_evaluator(space.sites)
    search.run(space, first, strategy="random", max_evaluations=8, storage=storage)
    second = make_evaluator(space.sites)
    search.run(space, second, strategy="nsga2", max_evaluations=8, storage=storage)
    assert not set(first.seen) & set(second.seen)
    assert len(second.seen) <= 5  # the three uniform bitmaps are known
    for other in (make_evaluator(space.sites, name="other"), make_evaluator(space.sites, limit=4)):
        search.run(space, other, strategy="random", max_evaluations=8, storage=storage)
        assert len(other.seen) == 8


def test_non_finite_scores_reach_the_strategies_and_not_the_front(space):
    study = Study(space, OBJECTIVES, "tpe", max_evaluations=24)
    values = itertools.cycle([float("nan"), 50.0, float("inf")])
    result = drive(study, lambda bitmap: Evaluation({"f1": next(values)}, 1))
    assert len(result.points) == 24
    assert {point.values[0] for point in result.front_points} == {50.0}
    assert result.best().values[0] == 50.0
