import json
import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

import search
from qalof.bitmap import Bitmap
from qalof.bitmap_file import read_spec
from qalof.cost import cost_of
from qalof.errors import BadInputError
from qalof.files import write_json
from qalof.statistics import Interval
from search import BitmapSpace, Objective, Point, SearchResult
from search.judge import _best

OBJECTIVES = ("max:f1", "min:weight_bytes")


@pytest.fixture(scope="session")
def result(sites, make_evaluator):
    evaluator = make_evaluator(sites, per_example=True)
    return search.run(
        BitmapSpace.of(sites, weight=(2, 4, 8)), evaluator, OBJECTIVES, "random", 20, limits={"average_bits": 6}
    )


def test_the_front_is_a_table_with_intervals_and_costs(result):
    front = result.front
    assert list(front) == [
        "id", "bitmap", "summary", "f1", "f1_low", "f1_high", "loss", "loss_low", "loss_high",
        "average_bits", "weight_bytes", "kv_bytes_per_token", "bit_operations_per_token",
        "activation_bytes_per_token",
    ]  # fmt: skip
    assert (front.f1_low < front.f1).all()
    assert (front.f1 < front.f1_high).all()
    assert (front.loss_low == front.loss).all()  # no per-example scores were kept for it
    assert front.weight_bytes.is_monotonic_increasing
    assert front.f1.is_monotonic_increasing
    assert len(result.all) == 20
    assert set(front.bitmap) <= set(result.all.bitmap)


@settings(max_examples=50, deadline=None)
@given(limit=st.floats(2, 8))
def test_the_best_is_never_above_the_budget_and_nothing_within_it_is_better(result, limit):
    best = result.best(average_bits=limit)
    assert best.cost.average_bits <= limit
    assert best.values[0] == max(p.values[0] for p in result.points if p.cost.average_bits <= limit)


def test_the_best_keeps_two_budgets_at_once(result):
    best = result.best(average_bits=4.5, weight_bytes=1300)
    assert best.cost.average_bits <= 4.5
    assert best.cost.weight_bytes <= 1300


def test_no_best_within_an_infeasible_budget_and_it_says_what_there_is(result):
    with pytest.raises(BadInputError, match="has average_bits <= 1: they have average_bits from 2 to"):
        result.best(average_bits=1)


def test_an_unknown_budget_names_the_nearest(result):
    with pytest.raises(BadInputError, match="did you mean 'weight_bytes'"):
        result.best(weights_bytes=1)


def test_equal_scores_go_to_the_cheaper_bitmap(plain_sites, make_evaluator):
    evaluator = make_evaluator(plain_sites, dict.fromkeys((site.name for site in plain_sites), 0.0))
    result = search.run(BitmapSpace.of(plain_sites, weight=(2, 4, 8)), evaluator, max_evaluations=9)
    assert str(result.best().bitmap) == "2"


VALUES = st.sampled_from([1.0, 2.0, 3.0, math.nan])


@settings(max_examples=40, deadline=None)
@given(
    objective=st.sampled_from(["max:f1", "min:loss", "worst:loss", "worst:f1"]),
    values=st.lists(st.tuples(VALUES, VALUES), min_size=6, max_size=6),
    limit=st.sampled_from([2.0, 4.5, 8.0]),
)
def test_results_files_and_judgements_choose_the_same_bitmap_within_a_budget(
    sites, tmp_path_factory, objective, values, limit
):
    names = [site.name for site in sites]
    some = [2, 4, 8, *({name: b if i % 2 else a for i, name in enumerate(names)} for a, b in ((2, 4), (4, 8), (8, 2)))]
    bitmaps = [Bitmap.uniform(names, bits) if isinstance(bits, int) else Bitmap.parse(bits, names) for bits in some]
    name = objective.partition(":")[2]
    points = [
        Point(bitmap, cost_of(bitmap, sites), {name: Interval.exact(first)}, (first, second), 1)
        for bitmap, (first, second) in zip(bitmaps, values, strict=True)
    ]
    objectives = (Objective.parse(objective), Objective.parse("max:agreement"))
    made = SearchResult(tuple(points), objectives, "random", 0, {})
    usable = [p for p in points if p.cost.average_bits <= limit and all(map(math.isfinite, p.values))]
    path = tmp_path_factory.mktemp("chosen") / "front.json"
    write_json(path, made.to_json())
    if not usable:
        for choose in (lambda: made.best(average_bits=limit), lambda: read_spec(f"{path}#average_bits={limit}")):
            with pytest.raises(BadInputError):
                choose()
        return
    best = made.best(average_bits=limit)
    assert best.values[0] == (min if objective in ("min:loss", "worst:f1") else max)(p.values[0] for p in usable)
    assert Bitmap.from_json(read_spec(f"{path}#average_bits={limit}"), names) == best.bitmap
    kind = best.bitmap.is_uniform
    assert _best(made, {"average_bits": limit}, uniform=kind) is best


def test_a_saved_result_comes_back_as_it_was(result, tmp_path):
    result.save(tmp_path / "run")
    assert SearchResult.load(tmp_path / "run") == result
    names = ["front.csv", "front.json", "front.png", "front_bitmaps.png"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names
    assert len(pd.read_csv(tmp_path / "run" / "front.csv")) == len(result.front)
    data = json.loads((tmp_path / "run" / "front.json").read_text())
    assert [data["points"][index]["values"] for index in data["front"]] == [list(p.values) for p in result.front_points]


def test_a_trace_is_saved_as_a_table_of_its_own(sites, make_evaluator, tmp_path):
    result = search.run(BitmapSpace.of(sites, weight=(2, 4, 8)), make_evaluator(sites), OBJECTIVES, "greedy", None)
    result.save(tmp_path)
    rows = pd.read_csv(tmp_path / "trace.csv")
    assert list(rows) == ["step", "layer", "bits", "f1", "drop", "average_bits", "weight_bytes", "accepted"]
    assert SearchResult.load(tmp_path) == result


def test_a_collapsed_point_survives_saving_as_not_a_number(sites, make_evaluator, tmp_path):
    evaluator = make_evaluator(sites, {site.name: math.inf for site in sites}, per_example=True)
    result = search.run(BitmapSpace.of(sites, weight=(2, 4, 8)), evaluator, max_evaluations=2)
    result.save(tmp_path)
    loaded = SearchResult.load(tmp_path)
    assert all(math.isnan(point.values[0]) for point in loaded.points)
    with pytest.raises(BadInputError, match="finite score"):
        loaded.best()


@pytest.mark.parametrize(
    "objectives", [OBJECTIVES, ("max:f1",), ("max:f1", "min:loss"), ("max:f1", "worst:average_bits")]
)
def test_a_plot_is_a_picture_whatever_the_objectives(sites, make_evaluator, tmp_path, objectives):
    search.run(BitmapSpace.of(sites, weight=(2, 4, 8)), make_evaluator(sites), objectives, "random", 8).plot(
        tmp_path / "a" / "front.png"
    )
    assert imread(tmp_path / "a" / "front.png").std() > 0


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ('{"version": 9}', "version 2: got 9"), ("[]", "got None")]
)
def test_a_result_that_cannot_be_read_is_refused(tmp_path, text, message):
    (tmp_path / "front.json").write_text(text)
    with pytest.raises(BadInputError, match=message):
        SearchResult.load(tmp_path)


def test_a_missing_result_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="does not exist"):
        SearchResult.load(tmp_path)


@pytest.mark.parametrize("first", ["max:f1", "min:loss"])
def test_a_file_and_a_budget_name_the_bitmap_that_the_result_calls_best(sites, make_evaluator, tmp_path, first):
    result = search.run(
        BitmapSpace.of(sites, weight=(2, 4, 8)),
        make_evaluator(sites, per_example=True),
        (first, "min:weight_bytes"),
        "random",
        16,
    )
    result.save(tmp_path)
    file = tmp_path / "front.json"
    for cost in ("average_bits", "weight_bytes"):
        for point in result.points:
            budget = point.cost.value(cost)
            named = Bitmap.parse(f"{file}#{cost}={budget!r}", [site.name for site in sites])
            assert named == result.best(**{cost: budget}).bitmap


@pytest.mark.parametrize(
    ("choice", "part"),
    [
        ("average_bits=0.5", "raise the budget"),
        ("average_bit=4", "average_bits"),
        ("total_bytes=9", "cost"),
        ("average_bits=", "id or by its position"),
        ("average_bits<4", "id or by its position"),
    ],
)
def test_a_budget_that_chooses_no_bitmap_is_refused_with_the_way_out(sites, make_evaluator, tmp_path, choice, part):
    search.run(
        BitmapSpace.of(sites, weight=(2, 4, 8)), make_evaluator(sites, per_example=True), OBJECTIVES, "random", 4
    ).save(tmp_path)
    with pytest.raises(BadInputError, match=part):
        Bitmap.parse(f"{tmp_path / 'front.json'}#{choice}", [site.name for site in sites])


def test_a_budget_chooses_from_a_search_alone(tmp_path):
    file = tmp_path / "bitmap.json"
    file.write_text('{"sites": {"a": 4}}')
    with pytest.raises(BadInputError, match=r"front\.json"):
        Bitmap.parse(f"{file}#average_bits=4", ["a"])
