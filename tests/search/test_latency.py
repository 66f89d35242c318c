"""A limit on measured latencies is exact, and every strategy keeps it although a lower width may be slower."""

import itertools
import random

import pytest

import qalof
import search
from qalof.bitmap import Bitmap
from qalof.bitmap_file import read_spec
from qalof.errors import BadInputError
from qalof.evaluation.site_latency import latency_table
from qalof.latency import LatencyTable, digest_of
from qalof.layer_bits import LayerBits
from qalof.model.pretrained import BaseModel, HeadKind
from search import STRATEGIES, BitmapSpace, SearchResult

OBJECTIVES = ("max:f1", "min:latency_seconds")
TIMES = {"w2a2": 900, "w4a4": 1500, "w8a8": 1000}
"""Nanoseconds per site, more or less: 4 bits have no kernel on this machine."""


@pytest.fixture(scope="module")
def table(sites):
    draws = random.Random(3)
    times = {s.name: {choice: time + draws.randrange(300) for choice, time in TIMES.items()} for s in sites}
    return LatencyTable(times, digest_of(sites), {"processor": "a test"})


@pytest.fixture(scope="module")
def space(sites, table):
    return BitmapSpace.of(sites, weight=(2, 4, 8), kv=None, latency=table)


def seconds(table, bitmap):
    return sum(table.nanoseconds[name][f"w{b.weight_width}a{b.activation}"] for name, b in bitmap.items()) / 1e9


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize("more", [{}, {"average_bits": 4.6}], ids=str)
def test_every_strategy_keeps_a_limit_on_latency(strategy, more, space, table, make_evaluator):
    low, high = space.reachable("latency_seconds")
    limit = low + 0.4 * (high - low)
    evaluator = make_evaluator(space.sites)
    result = search.run(space, evaluator, OBJECTIVES, strategy, 20, {"latency_seconds": limit, **more})
    assert evaluator.seen
    assert all(seconds(table, bitmap) <= limit for bitmap in evaluator.seen)
    assert all(space.cost(bitmap).average_bits <= more.get("average_bits", 9) for bitmap in evaluator.seen)
    assert all(point.values[1] == seconds(table, point.bitmap) for point in result.points)


def test_a_projection_keeps_what_fits_is_within_all_limits_and_repeats_itself(space):
    low, high = space.reachable("latency_seconds")
    bounded = space.within({"latency_seconds": low + 0.3 * (high - low), "average_bits": 5.0})
    draws = random.Random(0)
    for _ in range(40):
        bitmap = space.bitmap([draws.randrange(unit.choices) for unit in space.units])
        projected = bounded.project(bitmap)
        assert bounded.fits(projected)
        assert projected == bounded.project(bitmap)
        assert projected == bitmap or not bounded.fits(bitmap)


def test_a_limit_on_latency_is_exact_to_the_nanosecond(plain_sites):
    times = {s.name: {"w4a4": 10 + i, "w8a8": 20 + 3 * i} for i, s in enumerate(plain_sites)}
    table = LatencyTable(times, digest_of(plain_sites))
    space = BitmapSpace.of(plain_sites, weight=(4, 8), kv=None, latency=table)
    every = [space.bitmap(picks) for picks in itertools.product((0, 1), repeat=3)]
    for nanoseconds in range(33, 71):
        bounded = space.within({"latency_seconds": nanoseconds / 1e9})
        assert [bounded.fits(bitmap) for bitmap in every] == [
            sum(times[n][f"w{b.weight}a{b.weight}"] for n, b in bitmap.items()) <= nanoseconds for bitmap in every
        ]
        assert bounded.allowance("latency_seconds", nanoseconds / 1e9) == nanoseconds


def test_results_and_files_choose_within_a_latency(space, table, make_evaluator, tmp_path):
    result = search.run(space, make_evaluator(space.sites), OBJECTIVES, "random", 20)
    result.save(tmp_path)
    limit = sorted(point.cost.latency_seconds for point in result.points)[8]
    best = SearchResult.load(tmp_path).best(latency_seconds=limit)
    assert seconds(table, best.bitmap) <= limit
    spec = read_spec(f"{tmp_path / 'front.json'}#latency_seconds={limit!r}")
    assert Bitmap.from_json(spec, [site.name for site in space.sites]) == best.bitmap


def test_a_table_is_saved_as_it_was_and_a_damaged_one_is_refused(table, tmp_path):
    path = tmp_path / "latency.json"
    table.save(path)
    assert LatencyTable.load(path) == table
    path.write_text(path.read_text().replace('"w4a4"', '"w5a5"', 1))
    with pytest.raises(BadInputError, match="digest"):
        LatencyTable.load(path)
    path.write_text("{}")
    with pytest.raises(BadInputError, match="is no latency table"):
        LatencyTable.load(path)


def without(table, site, choice=None):
    times = {name: dict(choices) for name, choices in table.nanoseconds.items()}
    times.pop(site) if choice is None else times[site].pop(choice)
    return LatencyTable(times, table.fingerprint)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: without(t, "h.1.mlp.c_fc"), r"must have every site: it has no 'h.1.mlp.c_fc'"),
        (lambda t: without(t, "h.0.attn.c_proj", "w4a4"), r"every choice: h.0.attn.c_proj has w2a2, w8a8, not w4a4"),
        (lambda t: LatencyTable(t.nanoseconds, "another"), "another fingerprint"),
    ],
)
def test_a_table_that_lacks_something_or_is_another_models_is_one_error(sites, table, change, said):
    with pytest.raises(BadInputError, match=said):
        BitmapSpace.of(sites, weight=(2, 4, 8), kv=None, latency=change(table))


def test_limits_that_contradict_each_other_and_a_limit_without_a_table_are_refused(sites, space):
    fast = space.reachable("latency_seconds")[0]
    slow = LatencyTable({s.name: {"w2a2": 9, "w8a8": 1} for s in sites}, digest_of(sites))  # 8 bits have a kernel
    limits = {"latency_seconds": 8e-9, "average_bits": 2.0}
    with pytest.raises(BadInputError, match="must keep the limits together"):
        BitmapSpace.of(sites, weight=(2, 8), kv=None, latency=slow, limits=limits)
    for ask in (
        lambda: BitmapSpace.of(sites, weight=(2, 4, 8), limits={"latency_seconds": fast}),
        lambda: BitmapSpace.of(sites, weight=(2, 4, 8)).costs("latency_seconds"),
    ):
        with pytest.raises(BadInputError, match="latency_seconds is measured"):
            ask()


@pytest.mark.parametrize("time", [-1, 1.5, True, None])
def test_a_time_is_a_whole_number_of_nanoseconds(time):
    with pytest.raises(BadInputError, match="whole number of nanoseconds"):
        LatencyTable({"a": {"w4a4": time}}, "")


def test_choices_of_a_model_are_timed_at_every_site(random_model):
    lm_model = qalof.build(BaseModel(random_model, HeadKind.CAUSAL_LM))
    choices = [LayerBits.parse(text) for text in ("w8a8", "w4a8kv8", "w4a8kv4", "w4g32a8", "32")]
    found = latency_table(lm_model, dict.fromkeys(lm_model.site_names, choices), repeats=1)
    found.check_for(lm_model.sites)
    assert {tuple(each) for each in found.nanoseconds.values()} == {("w8a8", "w4a8", "w4g32a8", "w32a32")}
    assert all(time > 0 for each in found.nanoseconds.values() for time in each.values())
