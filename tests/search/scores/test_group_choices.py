"""A score at a choice with a group size is the score of a model that has this granularity at the same bits."""

from functools import partial

import pytest

from qalof.model.adapters import AdapterSpec
from search.scores import compute as computing
from search.scores.compute import SCORES, compute
from search.scores.measures import Hessian

GROUPS = {"weight": {"quantizer": {"method": "symmetric", "granularity": "group", "group_size": 8}}}
MERGES = ("branch", "merge_then_quantize", "quantize_product", "quantize_factors")
CASES = [
    *((score, "merge_then_quantize") for score in SCORES if score not in ("metric", "hessian")),
    *(("hessian", merge) for merge in MERGES),
]


@pytest.mark.parametrize(("score", "merge"), CASES)
def test_the_choice_of_a_group_size_is_scored_as_the_granularity_that_it_is(
    make_model, windows, monkeypatch, score, merge
):
    monkeypatch.setattr(computing, "Hessian", partial(Hessian, items=2, tolerance=0))
    specs = {"4": AdapterSpec(2)}
    own = make_model(specs, merge=merge, quantization=GROUPS)
    expected = compute(own, windows[:2], score, {"weight": ("4",)})
    found = compute(make_model(specs, merge=merge), windows[:2], score, {"weight": ("4g8",)})
    for site, by_choice in expected.values["weight"].items():
        assert found.values["weight"][site]["4g8"] == by_choice["4"]
