"""Limits on metrics: what no strategy may put on the front, in the direction of the metric."""

import pytest

import search
from qalof.bitmap import Bitmap
from qalof.bitmap_file import read_spec
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.metrics import metric_of
from search import STRATEGIES, BitmapSpace, SearchResult
from search.metric_limit import MetricLimit, parted

OBJECTIVES = ("max:accuracy", "max:adversarial_accuracy", "min:average_bits")


@pytest.fixture
def space(sites):
    return BitmapSpace.of(sites, weight=(2, 4, 8))


@pytest.fixture
def evaluator(space, make_evaluator):
    """Bits help accuracy, and hurt what is left of it under attack."""

    class Attacked(make_evaluator):
        def _evaluate(self, bitmap):
            f1 = super()._evaluate(bitmap)["f1"]
            bits = sum(layer.weight for layer in bitmap.values()) / len(bitmap)
            return Evaluation({"accuracy": f1, "adversarial_accuracy": 90 - 8 * bits, "loss": 2 - f1 / 100}, 4)

    return Attacked(space.sites)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_takes_it_as_an_objective_and_as_a_limit(name, space, evaluator):
    result = search.run(space, evaluator, OBJECTIVES, name, 24, {"adversarial_accuracy": 0.36, "average_bits": 7})
    assert result.points
    assert all(point.cost.average_bits <= 7 for point in result.points)
    left = [point.metrics["adversarial_accuracy"].estimate for point in result.points]
    assert [bool(point.breaks) for point in result.points] == [value < 36 for value in left]
    assert result.front_points
    assert not any(point.breaks for point in result.front_points)
    assert not result.best().breaks
    assert result.limits == {"adversarial_accuracy": 0.36, "average_bits": 7}


@pytest.mark.parametrize("name", ["tpe", "nsga2", "evolutionary"])
def test_a_limit_leads_a_strategy_to_bitmaps_that_keep_it(name, space, evaluator):
    def kept(limits):
        found = search.run(space, evaluator, ("max:accuracy", "min:average_bits"), name, 32, limits).points
        return sum(point.metrics["adversarial_accuracy"].estimate >= 62 for point in found)

    assert kept({"adversarial_accuracy": 0.62}) > kept({})


def test_what_a_file_holds_of_broken_limits_is_what_the_search_found(space, evaluator, tmp_path):
    found = search.run(space, evaluator, OBJECTIVES, "random", 16, {"adversarial_accuracy": 0.6})
    found.save(tmp_path)
    again = SearchResult.load(tmp_path)
    assert (again.front_points, again.breaking) == (found.front_points, found.breaking)
    assert found.breaking
    names = [site.name for site in space.sites]
    best = Bitmap.parse(read_spec(f"{tmp_path / 'front.json'}#average_bits=8"), names)
    assert best == found.best(average_bits=8).bitmap


@pytest.mark.parametrize(("limit", "kept"), [("accuracy", 80.0), ("loss", 0.4)])
def test_the_direction_is_the_metrics_own(limit, kept):
    (found,) = parted({limit: 0.8 if limit == "accuracy" else 0.4})[1]
    better = metric_of(limit).sign
    assert found.excess(kept) == found.excess(kept + 0.01 * better) == 0 < found.excess(kept - 0.01 * better)


@pytest.mark.parametrize("bound", [-0.1, 1.01, 60, float("nan")])
def test_a_limit_on_a_metric_in_percent_is_a_share(bound):
    with pytest.raises(BadInputError, match="must be a share between 0 and 1"):
        MetricLimit("adversarial_accuracy", bound)


def test_the_way_out_of_a_limit_in_percent_is_the_share():
    with pytest.raises(BadInputError, match=r"got 60; 0\.6 is 60 %"):
        MetricLimit("adversarial_accuracy", 60)


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"f1": 0.5}, "a limit must name a cost or a metric that is measured: got f1"), ({"robust": 1}, "name a cost")],
)
def test_a_limit_on_what_is_not_measured_is_refused(space, evaluator, limits, message):
    with pytest.raises(BadInputError, match=message):
        search.run(space, evaluator, OBJECTIVES, "random", 4, limits)


def test_the_best_of_bitmaps_that_all_break_a_limit_says_which(space, evaluator):
    found = search.run(space, evaluator, OBJECTIVES, "random", 4, {"adversarial_accuracy": 0.99})
    with pytest.raises(BadInputError, match=r"none of 4 does, the last breaks adversarial_accuracy >= 0\.99"):
        found.best()
    assert found.front.empty


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_a_strategy_that_chooses_by_one_objective_says_so(name, space, evaluator, caplog):
    search.run(space, evaluator, OBJECTIVES, name, 4)
    said = "chooses bitmaps by max:accuracy: max:adversarial_accuracy is measured" in caplog.text
    assert said == (name not in ("tpe", "nsga2", "random"))
