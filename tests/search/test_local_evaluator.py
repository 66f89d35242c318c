"""The evaluator in this process, on a random two-block GPT-2 and a task of a few lines."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import search
from qalof.evaluation.result import Evaluation
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.switchable import build
from search import BitmapSpace, LocalEvaluator


class NextToken:
    """Mean log-likelihood of fixed random text."""

    def evaluate(self, model, *, limit=None, progress=None):
        ids = torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(0))[:limit]
        with torch.no_grad():
            logits = model(ids).logits[:, :-1].log_softmax(-1)
        scores = logits.gather(-1, ids[:, 1:, None]).mean((1, 2)).tolist()
        return Evaluation({"likelihood": sum(scores) / len(scores)}, len(scores), {"likelihood": scores})

    def fingerprint(self):
        return "next-token"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3)
    GPT2LMHeadModel(config).save_pretrained(path)
    return str(path)


@pytest.fixture
def model(folder):
    return build(BaseModel(folder, HeadKind.CAUSAL_LM), {"4": AdapterSpec(2, 4), "8": AdapterSpec(2, 4)})


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


def test_the_fingerprint_holds_for_equal_models_and_changes_with_an_adapter(folder, model):
    twin = build(BaseModel(folder, HeadKind.CAUSAL_LM), dict(model.adapters))
    assert LocalEvaluator(model, NextToken()).fingerprint() == LocalEvaluator(twin, NextToken()).fingerprint()
    model.set_bitmap(2)
    assert LocalEvaluator(model, NextToken()).fingerprint() == LocalEvaluator(twin, NextToken()).fingerprint()
    next(iter(twin.trainable_groups()["4"].values())).data += 1e-6
    assert LocalEvaluator(model, NextToken()).fingerprint() != LocalEvaluator(twin, NextToken()).fingerprint()
