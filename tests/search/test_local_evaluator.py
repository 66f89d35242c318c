"""The evaluator in this process, on a random two-block GPT-2 and a task of a few lines."""

import pytest

import search
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.switchable import build
from search import BitmapSpace, LocalEvaluator
from tests.search.conftest import NextToken


@pytest.fixture
def model(small_gpt2):
    return build(BaseModel(small_gpt2, HeadKind.CAUSAL_LM), {"4": AdapterSpec(2, 4), "8": AdapterSpec(2, 4)})


def test_a_search_runs_on_a_real_model_and_leaves_it_at_its_bitmap(model):
    model.set_bitmap(8)
    before = model.bitmap
    evaluator = LocalEvaluator(model, NextToken(), limit=3)
    space = BitmapSpace.of(model, weight=(2, 4, 8), kv=(4, 8))
    result = search.run(
        space, evaluator, ("max:likelihood", "min:weight_bytes"), max_evaluations=6, limits={"average_bits": 5}
    )
    assert model.bitmap == before
    assert result.all.average_bits.max() <= 5
    for point in result.points:
        model.set_bitmap(point.bitmap)
        assert NextToken().evaluate(model, limit=3)["likelihood"] == point.values[0]


def test_the_examples_of_an_evaluation_are_its_own_limit_or_the_evaluators(model):
    evaluator = LocalEvaluator(model, NextToken(), limit=3)
    assert evaluator.evaluate([model.bitmap])[0].examples == 3
    assert evaluator.evaluate([model.bitmap], limit=2)[0].examples == 2


def test_the_bitmap_comes_back_when_an_evaluation_fails(model):
    class Broken(NextToken):
        def evaluate(self, model, *, limit=None, progress=None):
            raise MemoryError

    before = model.bitmap
    with pytest.raises(MemoryError):
        LocalEvaluator(model, Broken()).evaluate([BitmapSpace.of(model, weight=(2, 4, 8)).uniform()[0]])
    assert model.bitmap == before


def test_the_fingerprint_holds_for_equal_models_and_changes_with_an_adapter(small_gpt2, model):
    twin = build(BaseModel(small_gpt2, HeadKind.CAUSAL_LM), dict(model.adapters))
    assert LocalEvaluator(model, NextToken()).fingerprint() == LocalEvaluator(twin, NextToken()).fingerprint()
    model.set_bitmap(2)
    assert LocalEvaluator(model, NextToken()).fingerprint() == LocalEvaluator(twin, NextToken()).fingerprint()
    next(iter(twin.trainable_groups()["4"].values())).data += 1e-6
    assert LocalEvaluator(model, NextToken()).fingerprint() != LocalEvaluator(twin, NextToken()).fingerprint()
