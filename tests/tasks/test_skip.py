"""The first examples and those after them are all examples, whatever the task."""

import pytest
import torch

import qalof
from qalof.errors import BadInputError
from qalof.model.pretrained import BaseModel
from qalof.model.switchable import build
from qalof.tasks.base import example_count
from qalof.tasks.factory import TASKS

SETTINGS = {
    "language-modeling": {"max_length": 48, "stride": 24, "eval_batch_size": 1},
    "squad-completion": {"max_length": 96, "max_new_tokens": 2, "eval_batch_size": 1},
    "squad-span": {"max_length": 64, "stride": 8, "eval_batch_size": 1},
    "classification": {"max_length": 64, "eval_batch_size": 1},
    "zero-shot": {"dataset": "hellaswag", "data": "tiny", "eval_batch_size": 1},
}


def test_every_task_is_tried():
    assert set(SETTINGS) == set(TASKS)


@pytest.fixture(scope="module", params=sorted(SETTINGS))
def task_and_model(request, random_model):
    task = qalof.task(request.param, source=random_model, **SETTINGS[request.param])
    torch.manual_seed(0)
    return task, build(BaseModel(random_model, task.head, labels=task.labels)).double().eval()


def test_what_is_skipped_and_what_follows_are_scored_as_in_one_piece(task_and_model):
    task, model = task_and_model
    whole = task.evaluate(model, limit=6)
    parts = [task.evaluate(model, limit=2), task.evaluate(model, limit=4, skip=2)]
    assert [part.examples for part in parts] == [2, 4]
    for name, scores in whole.per_example.items():
        if name in whole.weights:  # sums per example, scaled by all tokens
            joined = [s * sum(p.weights[name]) / p.examples
                      for p in parts for s in p.per_example[name]]  # fmt: skip
            scores = [s * sum(whole.weights[name]) / whole.examples for s in scores]
        else:
            joined = [score for part in parts for score in part.per_example[name]]
        assert joined == pytest.approx(scores, rel=1e-9, abs=1e-12)
    for name, count in whole.counts.items():
        assert sum(part.counts[name] for part in parts) == count


def test_a_limit_beyond_the_end_takes_what_is_left(task_and_model):
    task, model = task_and_model
    count = example_count(task)
    assert task.evaluate(model, limit=5, skip=count - 1).examples == 1


@pytest.mark.parametrize("beyond", [0, 1, 100])
def test_skipping_all_is_refused_with_the_number_of_examples(task_and_model, beyond):
    task, model = task_and_model
    count = example_count(task)
    with pytest.raises(BadInputError, match=rf"skip must leave an example: got {count + beyond} of {count}"):
        task.evaluate(model, skip=count + beyond)
