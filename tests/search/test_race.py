"""``evolutionary`` with races: more children than are evaluated, which race over growing sets of examples."""

import math
from itertools import pairwise

import pytest

import search
from qalof.errors import BadInputError
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.switchable import build
from search.measurement import HeatWanted
from tests.search.conftest import NextToken

OBJECTIVES = ("max:f1",)


@pytest.fixture
def space(sites):
    return search.BitmapSpace.of(sites, weight=(2, 3, 4, 6, 8), activation=(8,), kv=None)


@pytest.fixture
def racing(make_evaluator):
    class Racing(make_evaluator):
        """Its heats see the formula, and no number for bitmaps that have a site at 2 bits."""

        def measure(self, wanted):
            self.measured.append(wanted)
            quiet = make_evaluator(self.sites, self.sensitivity)
            found = [evaluation["f1"] for evaluation in quiet.evaluate(wanted.bitmaps)]
            lost = [any(layer.weight == 2 for layer in bitmap.values()) for bitmap in wanted.bitmaps]
            return {"values": [None if gone else f1 for gone, f1 in zip(lost, found, strict=True)]}

    return Racing


def run(space, evaluator, evaluations=60, **options):
    options = {"generation_size": 4, **options}
    return search.run(space, evaluator, OBJECTIVES, "evolutionary", evaluations, {"average_bits": 4}, options=options)


def test_each_heat_sees_more_examples_and_half_of_the_bitmaps_and_the_best_go_on(space, racing):
    evaluator = racing(space.sites)
    result = run(space, evaluator, race=[2, 8, 16])
    heats = [(wanted.examples, len(wanted.bitmaps)) for wanted in evaluator.measured]
    assert heats[:3] == [(2, 32), (8, 16), (16, 8)]
    for before, after in pairwise(evaluator.measured[:3]):
        values = dict(zip(before.bitmaps, racing(space.sites).measure(before)["values"], strict=True))
        kept = [values[bitmap] for bitmap in after.bitmaps]
        left = [values[bitmap] for bitmap in before.bitmaps if bitmap not in after.bitmaps]
        least = min(-math.inf if value is None else value for value in kept)
        assert all(value is None or value <= least for value in left)
    assert result.trace[0].keys() >= {"examples", "bitmaps", "kept"}


def test_the_same_number_of_evaluations_finds_a_better_bitmap_with_a_race(space, racing):
    alone, raced = (run(space, racing(space.sites), 30, race=race) for race in ([], [4, 8]))
    assert len(raced.points) == len(alone.points) == 30
    best = [max(point.values[0] for point in result.points) for result in (alone, raced)]
    assert best[1] > best[0]


def test_heats_stand_in_the_record_and_are_not_run_again(space, racing, tmp_path):
    storage, options = tmp_path / "search.jsonl", {"generation_size": 4, "race": [4]}
    told = (space, racing(space.sites), OBJECTIVES, "evolutionary", 20)
    first = search.run(*told, storage=storage, options=options)
    again = racing(space.sites)
    second = search.run(space, again, *told[2:], storage=storage, options=options)
    assert not again.measured
    assert [point.bitmap for point in first.points] == [point.bitmap for point in second.points]


@pytest.mark.parametrize("race", [[8, 8], [8, 2], [0], [-1, 4], [2.5]])
def test_a_race_whose_sets_do_not_grow_is_refused_before_any_work(space, racing, race):
    evaluator = racing(space.sites)
    with pytest.raises(BadInputError, match="race"):
        run(space, evaluator, race=race)
    assert not evaluator.seen


def test_an_evaluator_that_cannot_measure_is_told_so_and_needs_no_measure_without_a_race(space, make_evaluator):
    class Plain(make_evaluator):
        measure = None

    assert run(space, Plain(space.sites), 12).points
    with pytest.raises(BadInputError, match="measure"):
        run(space, Plain(space.sites), 12, race=[4])


class BreaksAtTwoBits(NextToken):
    def evaluate(self, model, *, limit=None, progress=None):
        if all(layer.weight == 2 for layer in model.bitmap.values()):
            raise ZeroDivisionError("a model that breaks")
        return super().evaluate(model, limit=limit, progress=progress)


def test_a_heat_gives_what_evaluations_of_so_many_examples_give_and_leaves_the_model_as_it_was(small_gpt2):
    model, task = build(BaseModel(small_gpt2, HeadKind.CAUSAL_LM)).train(), BreaksAtTwoBits()
    before = model.bitmap
    bitmaps = [search.BitmapSpace.of(model, weight=(width,)).uniform()[0] for width in (4, 2, 8)]
    taken = HeatWanted(tuple(bitmaps), "likelihood", 3).take(model, task)
    assert model.bitmap == before
    assert model.training
    whole = search.LocalEvaluator(model, task, limit=3)
    plain = [whole.evaluate([bitmap])[0]["likelihood"] for bitmap in (bitmaps[0], bitmaps[2])]
    assert [taken["values"][0], taken["values"][2]] == plain
    assert taken["values"][1] is None
