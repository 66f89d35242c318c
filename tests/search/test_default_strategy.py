"""``guided`` is the strategy where none is named and the evaluator can measure; otherwise ``tpe`` is, and says so."""

import logging

import pytest

import qalof
import search
from qalof.model.pretrained import BaseModel
from qalof.model.switchable import build
from qalof.tasks.factory import TASKS

TRAINED = {
    "language-modeling": {"max_length": 32, "stride": 32},
    "squad-completion": {"max_length": 96, "max_new_tokens": 2},
    "squad-span": {"max_length": 96, "stride": 16},
    "classification": {"max_length": 64},
}


def run(random_model, name, settings, **options):
    task = qalof.task(name, source=random_model, **settings)
    model = build(BaseModel(random_model, task.head, labels=task.labels)).eval()
    space = search.BitmapSpace.of(model, weight=(3, 8), activation=(32,), kv=None)
    return search.run(space, search.LocalEvaluator(model, task, 2), max_evaluations=3, **options)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_with_a_loss_and_training_examples_is_guided_and_others_are_said_not_to_be(
    random_model, caplog, name
):
    if name not in TRAINED:
        assert name == "zero-shot"
        with caplog.at_level(logging.WARNING):
            result = run(random_model, name, {"dataset": "boolq", "data": "tiny"})
        assert result.strategy == "tpe"
        assert "tpe is the strategy, since guided needs scores" in caplog.text
        return
    with caplog.at_level(logging.WARNING):
        result = run(random_model, name, TRAINED[name], options={"examples": 2, "budgets": [4.5]})
    assert result.strategy == "guided"
    assert "strategy" not in caplog.text


def test_training_data_that_is_missing_is_named_in_the_reason(random_model, caplog, tmp_path):
    (tmp_path / "validation.txt").write_text("a b c d e f g h " * 40)
    settings = {"max_length": 32, "stride": 32, "data": str(tmp_path)}
    with caplog.at_level(logging.WARNING):
        assert run(random_model, "language-modeling", settings).strategy == "tpe"
    assert "must hold train.txt" in caplog.text


def test_an_evaluator_that_does_not_say_whether_it_can_measure_gets_tpe(plain_sites, make_evaluator, caplog):
    space = search.BitmapSpace.of(plain_sites, weight=(4, 8))
    with caplog.at_level(logging.WARNING):
        result = search.run(space, make_evaluator(plain_sites), ("max:f1",), max_evaluations=3)
    assert result.strategy == "tpe"
    assert "FormulaEvaluator has no method why_unmeasured" in caplog.text


def test_a_strategy_that_is_named_is_taken_without_a_word(plain_sites, make_evaluator, caplog):
    space = search.BitmapSpace.of(plain_sites, weight=(4, 8))
    with caplog.at_level(logging.WARNING):
        result = search.run(space, make_evaluator(plain_sites), ("max:f1",), "random", max_evaluations=3)
    assert result.strategy == "random"
    assert not caplog.text
