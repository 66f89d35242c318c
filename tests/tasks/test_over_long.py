"""Rows that do not fit: whatever is too long for a task's window is counted and scored as empty, never an end."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import qalof
from qalof.errors import BadInputError
from qalof.model.pretrained import HeadKind, load_pretrained

CONTEXT = "Anna Berg lives in Oslo. Ben Nash works in Rome. " * 3
LENGTHS = (1, 10, 20, 30, 40, 50, 54, 55, 56, 57, 60, 62, 63, 64, 65, 80, 300)


def squad(path, lengths):
    """A question of each number of words, which are about as many tokens."""
    paragraphs = [
        {
            "context": CONTEXT,
            "qas": [
                {
                    "id": f"q{number}",
                    "question": " ".join(["where"] * length) + "?",
                    "answers": [{"text": "Oslo", "answer_start": CONTEXT.index("Oslo")}],
                }
            ],
        }
        for number, length in enumerate(lengths)
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return str(path)


class Idle(torch.nn.Module):
    """A span model with no opinion."""

    def __init__(self):
        super().__init__()
        self.device = torch.device("cpu")

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(start_logits=torch.zeros(input_ids.shape), end_logits=torch.zeros(input_ids.shape))


@pytest.mark.parametrize("stride", [0, 1, 8, 32, 63])
def test_a_span_question_longer_than_the_window_is_counted_and_scored_as_empty(stride, random_model, tmp_path):
    data = squad(tmp_path / "d.json", LENGTHS)
    task = qalof.task("squad-span", source=random_model, data=data, max_length=64, stride=stride)
    found = task.evaluate(Idle())
    assert found.examples == len(LENGTHS)
    too_long = found.counts["question_too_long"]
    assert 3 < too_long <= len(LENGTHS)
    assert found.per_example["f1"][-too_long:] == [0.0] * too_long
    if too_long == len(LENGTHS):
        with pytest.raises(BadInputError, match="at least one answer inside a window"):
            task.train_features()
        return
    learned = {feature["id"] for feature in task.train_features()}
    counts = task.train_counts()
    assert counts["question_too_long"] == too_long
    assert counts["no_answer_in_window"] == len(LENGTHS) - len(learned) >= too_long


def test_every_length_around_the_limit_is_either_windowed_or_counted(random_model, tmp_path):
    for length in range(1, 70):
        data = squad(tmp_path / "d.json", [1, length + 1])
        task = qalof.task("squad-span", source=random_model, data=data, max_length=32, stride=4)
        windows = task._validation_windows
        assert all(len(window.input_ids) <= 32 for window in windows)
        assert ({window.example for window in windows} == {0, 1}) == (
            task.evaluate(Idle()).counts["question_too_long"] == 0
        )


def test_a_limit_counts_its_own_questions_alone(random_model, tmp_path):
    data = squad(tmp_path / "d.json", [1, 300, 2, 300])
    task = qalof.task("squad-span", source=random_model, data=data, max_length=64, stride=8)
    assert task.evaluate(Idle(), limit=1).counts["question_too_long"] == 0
    assert task.evaluate(Idle(), limit=3).counts["question_too_long"] == 1


def test_a_completion_question_longer_than_the_window_is_counted_and_scored_as_empty(random_model, tmp_path):
    model = load_pretrained(random_model, HeadKind.CAUSAL_LM)
    data = squad(tmp_path / "d.json", [1, 30, 60, 90, 200])
    task = qalof.task("squad-completion", source=random_model, data=data, max_length=96, max_new_tokens=8)
    features = task.train_features()
    left_out = task.train_counts()["question_too_long"]
    assert len(features) == 5 - left_out
    assert 1 <= left_out < 5
    found = task.evaluate(model)
    assert found.examples == 5
    assert found.counts["question_too_long"] >= left_out
    assert found.per_example["f1"][-1] == found.per_example["exact_match"][-1] == 0.0
    assert all(torch.isfinite(torch.tensor([found.metrics["loss"]])))


def test_questions_that_all_leave_no_room_are_one_error(random_model, tmp_path):
    data = squad(tmp_path / "d.json", [200, 300])
    task = qalof.task("squad-completion", source=random_model, data=data, max_length=64, max_new_tokens=8)
    with pytest.raises(BadInputError, match="max_length must leave room for a context"):
        task.train_features()
    with pytest.raises(BadInputError, match="max_length must leave room for a context"):
        task.evaluate(load_pretrained(random_model, HeadKind.CAUSAL_LM))


def test_prompts_without_room_are_left_out_of_generation_and_counted(random_model, tmp_path):
    from qalof.model.pretrained import load_tokenizer
    from qalof.training.synthetic_data import GenerationSettings, TextSource

    data = squad(tmp_path / "d.json", [1, 300, 2])
    settings = GenerationSettings("prompts", data=data, max_length=64, max_new_tokens=8)
    source = TextSource(settings, load_tokenizer(random_model), 128)
    assert (source.count, source.left_out) == (2, 1)
    assert all(source.plan(index).start for index in range(source.count))
    with pytest.raises(BadInputError, match="max_length must leave room"):
        TextSource(
            GenerationSettings("prompts", data=squad(tmp_path / "e.json", [300]), max_length=64, max_new_tokens=8),
            load_tokenizer(random_model),
            128,
        )


def test_a_choice_longer_than_the_window_makes_its_item_wrong_and_is_counted(random_model, tmp_path):
    items = [
        {"goal": "eat", "sol1": "an apple", "sol2": "a stone", "label": 0},
        {"goal": "eat", "sol1": "apples " * 60, "sol2": "a stone", "label": 0},
    ]
    path = tmp_path / "piqa.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    task = qalof.task("zero-shot", source=random_model, dataset="piqa", data=str(path), max_length=32)
    found = task.evaluate(load_pretrained(random_model, HeadKind.CAUSAL_LM))
    assert found.counts["choice_too_long"] == 1
    assert found.per_example["acc"][1] == found.per_example["acc_norm"][1] == 0.0


@pytest.mark.parametrize("ids", [["a", "a"], ["a", "b", "a"], ["7", 7]])
def test_question_ids_that_stand_twice_are_refused_and_named(ids, tmp_path):
    paragraph = json.loads(Path(squad(tmp_path / "d.json", [1])).read_text())["data"][0]["paragraphs"][0]
    paragraphs = [{**paragraph, "qas": [{**paragraph["qas"][0], "id": each}]} for each in ids]
    path = tmp_path / "twice.json"
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    with pytest.raises(
        BadInputError, match=f"question ids must differ: .*'{ids[0]}' as its questions 1 and {len(ids)}"
    ):
        qalof.task("squad-span", data=str(path)).train_features()


@pytest.mark.parametrize("name", ["squad-span", "squad-completion", "classification"])
def test_a_split_cut_to_nothing_is_one_error(name):
    task = qalof.task(name, train_split="train[:0]", validation_split="validation[:0]")
    with pytest.raises(BadInputError, match="must hold at least one"):
        task.train_features()
    with pytest.raises(BadInputError, match="must hold at least one"):
        task.fingerprint()


@pytest.mark.parametrize("name", ["bos", "eos"])
def test_a_tokenizer_without_a_token_that_a_task_needs_is_one_error(name, random_model, tmp_path):
    from qalof.evaluation.loglikelihood import prefix_token
    from qalof.model.pretrained import load_tokenizer
    from qalof.tasks.language_modeling import LanguageModelingSettings, LanguageModelingTask
    from qalof.tasks.squad_completion import CompletionTask
    from qalof.training.synthetic_data import GenerationSettings, TextSource

    tokenizer = load_tokenizer(random_model)
    tokenizer.bos_token = None
    asking = [
        lambda: LanguageModelingTask(tokenizer, LanguageModelingSettings(prepend_bos=True)).windows(),
        lambda: TextSource(GenerationSettings("bos", 3, max_length=32), tokenizer, 128).plan(0),
    ]
    if name == "eos":
        tokenizer.eos_token = None
        asking = [
            lambda: CompletionTask(tokenizer),
            lambda: TextSource(GenerationSettings(max_length=32), tokenizer, 128),
            lambda: prefix_token(tokenizer),
        ]
    for ask in asking:
        with pytest.raises(BadInputError, match=f"tokenizer with a {name} token"):
            ask()
