"""Sensitivity and greedy on cases worked out by hand."""

import pytest

import search
from qalof.bitmap import Bitmap
from qalof.evaluation.result import Evaluation
from qalof.metrics import metric_of
from qalof.statistics import paired_difference
from search import BitmapSpace, Score
from search.strategies.sensitivity import drop, drop_interval

SITES = ("h.0.a", "h.0.b", "h.1.a")
LOSSES = {"h.0.a": {8: 0, 4: 2, 2: 9}, "h.0.b": {8: 0, 4: 6, 2: 20}, "h.1.a": {8: 0, 4: 1, 2: 4}}


class TableEvaluator:
    """F1 = 50 minus the losses of the table."""

    at_once, limit = 1, None

    def __init__(self, sites):
        self.sites, self.seen = sites, []

    def fingerprint(self):
        return "table"

    def evaluate(self, bitmaps, limit=None):
        self.seen += bitmaps
        return [Evaluation({"f1": 50.0 - sum(LOSSES[s][b.weight] for s, b in bitmap.items())}, 1) for bitmap in bitmaps]


@pytest.fixture
def space(plain_sites):
    return BitmapSpace.of(plain_sites, weight=(2, 4, 8))


@pytest.fixture
def evaluator(plain_sites):
    return TableEvaluator(plain_sites)


def greedy(space, evaluator, **options):
    return search.run(space, evaluator, ("max:f1", "min:weight_bytes"), "greedy", None, options=options)


# ascending: h.1.a@4 (1), h.0.a@4 (2), h.1.a@2 (4), h.0.b@4 (6), h.0.a@2 (9), h.0.b@2 (20)
def test_greedy_visits_by_sensitivity_keeps_what_fits_and_takes_back_the_rest(space, evaluator):
    trace = greedy(space, evaluator, budget=0.2).trace  # 20 % of 50: a drop of 10
    steps = [(row["layer"], row["bits"], row["f1"], row["drop"], row["accepted"]) for row in trace]
    assert steps == [
        ("h.1.a", "4", 49, 1, True),
        ("h.0.a", "4", 47, 3, True),
        ("h.1.a", "2", 44, 6, True),
        ("h.0.b", "4", 38, 12, False),
        ("h.0.a", "2", 37, 13, False),
    ]
    assert [row["step"] for row in trace] == [1, 2, 3, 4, 5]
    assert trace[2]["average_bits"] == pytest.approx((4 + 8 + 2) / 3)
    assert trace[2]["weight_bytes"] == 8 * (4 + 4) + 8 * (8 + 4) + 8 * (2 + 4)  # codes of a row, and its fp32 scale


def test_greedy_stops_at_the_first_failure_if_told_to(space, evaluator):
    trace = greedy(space, evaluator, budget=0.2, stop_on_fail=True).trace
    assert [row["accepted"] for row in trace] == [True, True, True, False]


def test_an_absolute_budget_is_in_the_metrics_unit_and_its_edge_is_kept(space, evaluator):
    trace = greedy(space, evaluator, budget=3, budget_kind="absolute").trace
    assert [row["layer"] for row in trace if row["accepted"]] == ["h.1.a", "h.0.a"]


def test_greedy_takes_a_given_order_and_then_measures_nothing_but_its_steps(space, evaluator):
    given = {"h.0.a": {4: 2, 2: 9}, "h.0.b": {"4": 0, "2": 1}, "h.1.a": {4: 1, 2: 4}}
    trace = greedy(space, evaluator, budget=0.2, sensitivity=given).trace
    assert [(row["layer"], row["bits"]) for row in trace[:2]] == [("h.0.b", "4"), ("h.0.b", "2")]
    assert len(evaluator.seen) == 1 + len(trace)


def test_greedy_starts_where_it_is_told(space, evaluator):
    assert str(greedy(space, evaluator, start=4).points[0].bitmap) == "4"


def test_the_ranking_ascends_and_counts_the_drop_from_the_reference(space, evaluator):
    result = search.run(space, evaluator, ("max:f1",), "one_at_a_time", None, options={"to": (4,)})
    assert [(row["unit"], row["bits"], row["f1_drop"]) for row in result.trace] == [
        ("h.1.a", "4", 1), ("h.0.a", "4", 2), ("h.0.b", "4", 6),
    ]  # fmt: skip
    assert len(evaluator.seen) == 4


def test_every_lower_width_is_tried_unless_told_otherwise(space, evaluator):
    trace = search.run(space, evaluator, ("max:f1",), "one_at_a_time", None).trace
    assert [row["f1_drop"] for row in trace] == [1, 2, 4, 6, 9, 20]


def test_blocks_are_ranked_where_blocks_are_chosen(plain_sites, evaluator):
    space = BitmapSpace.of(plain_sites, weight=(4, 8), group="block")
    trace = search.run(space, evaluator, ("max:f1",), "one_at_a_time", None).trace
    assert [(row["unit"], row["f1_drop"]) for row in trace] == [("h.1", 1), ("h.0", 8)]


def score(values, loss, space):
    bitmap = Bitmap.uniform(SITES, 4)
    metrics = {"f1": sum(values) / len(values), "loss": loss}
    return Score(bitmap, Evaluation(metrics, len(values), {"f1": values}), space.cost(bitmap), ())


def test_the_interval_of_a_drop_is_paired(space):
    before, after = [90.0, 10.0, 60.0, 20.0], [88.0, 9.0, 57.0, 18.0]
    found = drop_interval(metric_of("f1"), score(before, 1.0, space), score(after, 1.5, space))
    paired = paired_difference(before, after)
    assert found.estimate == 2.0
    assert (found.low, found.high) == (paired.low, paired.high)
    # unpaired, the spread between examples would swamp it
    assert 1 <= found.low <= 2 <= found.high <= 3


def test_a_rise_of_the_loss_is_a_drop(space):
    before, after = score([1.0], 1.0, space), score([1.0], 1.5, space)
    assert drop(metric_of("loss"), before, after) == 0.5
    assert drop(metric_of("f1"), before, after) == 0
