"""An evaluation in parts, joined, is the evaluation of the whole."""

import json
from types import SimpleNamespace

import pytest
import torch

import qalof
from qalof.bitmap import Bitmap
from qalof.evaluation.result import Evaluation
from qalof.model.pretrained import BaseModel
from qalof.model.switchable import build
from qalof.tasks import parts
from qalof.tasks.parts import Part, evaluate_in_parts, joined, parts_of
from search import LocalEvaluator

TASKS = {
    "squad-span": {"stride": 8, "max_length": 64},
    "squad-completion": {"max_length": 96, "max_new_tokens": 4},
    "language-modeling": {"max_length": 32, "stride": 16},
    "classification": {"max_length": 64},
}
LIMIT = 7


@pytest.fixture
def small(monkeypatch):
    """Parts of three examples."""
    monkeypatch.setattr(parts, "LEAST", 3)
    monkeypatch.setattr(parts, "BATCHES", 0)


def loaded(source, name, options):
    task = qalof.task(name, source=source, **options)
    torch.manual_seed(0)
    model = build(BaseModel(source, task.head, labels=task.labels)).double().eval()
    model.set_bitmap("w4a32kv32")
    return task, model


@pytest.fixture(scope="session")
def items(tmp_path_factory):
    """A folder with a benchmark of ten items."""
    folder = tmp_path_factory.mktemp("items")
    rows = [{"passage": "It is red. " * i, "question": "is it red", "answer": i % 2 == 0} for i in range(1, 11)]
    (folder / "boolq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"dataset": "boolq", "data": str(folder)}


@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.parametrize("name", [*TASKS, "zero-shot"])
def test_the_parts_of_every_task_join_to_the_whole(random_model, items, small, name, skip):
    task, model = loaded(random_model, name, TASKS.get(name, items))
    assert [part.limit for part in parts_of(task, LIMIT, skip)] == [3, 3, 1]
    whole, found = task.evaluate(model, limit=LIMIT, skip=skip), evaluate_in_parts(task, model, LIMIT, skip)
    assert found.examples == whole.examples == LIMIT
    assert found.counts == whole.counts
    assert found.weights == whole.weights
    for kind in ("metrics", "exponents"):
        assert getattr(found, kind) == pytest.approx(getattr(whole, kind), rel=1e-9)
    assert set(found.per_example) == set(whole.per_example)
    for metric, scores in whole.per_example.items():
        assert found.per_example[metric] == pytest.approx(scores, rel=1e-9)
        assert found.interval(metric).low == pytest.approx(whole.interval(metric).low, rel=1e-9)


def test_divergence_on_request_is_joined_too(random_model, small):
    task, model = loaded(random_model, "language-modeling", TASKS["language-modeling"])
    evaluator = LocalEvaluator(model, task, LIMIT, metrics=("kl",))
    (found,) = evaluator.evaluate([Bitmap.uniform(model.site_names, 4)])
    assert found["kl"] > 0
    assert len(found.per_example["kl"]) == LIMIT


def test_a_short_split_is_one_part_and_a_part_is_not_cut_again(random_model):
    task = qalof.task("classification", source=random_model, max_length=64)
    assert parts_of(task, 100) == [Part(0, 100)]
    size = parts.BATCHES * task.settings.eval_batch_size
    whole = parts_of(task)
    assert len(whole) > 1
    assert {part.limit for part in whole[:-1]} == {size}
    assert all(parts_of(task, part.limit, part.skip) == [part] for part in whole)


@pytest.mark.parametrize("answered", [(0, 1), (8, 9), (0, 9), (4,)])
def test_no_part_is_without_an_answer_where_another_has_one(small, answered):
    examples = [SimpleNamespace(answers=["yes"] if index in answered else []) for index in range(10)]
    task = SimpleNamespace(validation=examples, settings=SimpleNamespace(eval_batch_size=1))
    found = parts_of(task)
    inside = [examples[part.skip :][: part.limit] for part in found]
    assert [each for part in inside for each in part] == examples
    assert all(any(each.answers for each in part) for part in inside)
    assert all(parts_of(task, part.limit, part.skip) == [part._replace(limit=part.limit)] for part in found)


def test_a_single_part_is_returned_as_it_is():
    only = Evaluation({"accuracy": 50.0}, 2, {"accuracy": [0.0, 100.0]})
    assert joined([only]) is only
