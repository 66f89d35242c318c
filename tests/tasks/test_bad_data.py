"""Data that is not as it should be: a clear error that names the place, or a skip that is counted."""

import json
from types import SimpleNamespace

import pytest
import torch

import qalof
from orchestrate.config.build import check_length
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.model.pretrained import load_pretrained
from qalof.tasks.classification import ClassificationSettings
from qalof.tasks.squad_data import load_squad
from qalof.tasks.zero_shot_data import load_items

CONTEXT = "Anna Berg lives in Oslo. Ben Nash works in Rome."


def question(number, answers, context=CONTEXT, **changes):
    qa = {"id": str(number), "question": "Where?", "answers": [{"text": t, "answer_start": s} for t, s in answers]}
    return {"context": context, "qas": [{k: v for k, v in (qa | changes).items() if v is not None}]}


def write(path, paragraphs):
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return str(path)


class Idle(torch.nn.Module):
    """A span model with no opinion."""

    def __init__(self):
        super().__init__()
        self.device = torch.device("cpu")

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(start_logits=torch.zeros(input_ids.shape), end_logits=torch.zeros(input_ids.shape))


GOOD = question(0, [("Oslo", CONTEXT.index("Oslo"))])
BAD = [
    question(1, [("Paris", 5)]),
    question(2, [("Oslo", 0)]),
    question(3, [("", 0)]),
    question(4, [("  ", 9)]),
    question(5, []),
]


def test_span_training_leaves_out_what_no_window_answers_and_counts_it(random_model, tmp_path):
    far = question(6, [("Zebra", 600)], context="word " * 120 + "Zebra")
    data = write(tmp_path / "d.json", [GOOD, *BAD, far])
    task = qalof.task("squad-span", source=random_model, data=data, max_length=64, stride=8)
    assert {feature["id"] for feature in task.train_features()} == {"0", "6"}
    assert task.train_counts() == {"no_answer_in_window": 5, "question_too_long": 0}
    found = task.evaluate(Idle())
    # all are scored: the metric asks for texts alone
    assert found.examples == 7
    assert found.counts == {"without_gold": 1, "empty_gold": 2, "gold_not_in_context": 2, "question_too_long": 0}
    assert Evaluation.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_span_training_without_any_answer_is_an_error(random_model, tmp_path):
    task = qalof.task("squad-span", source=random_model, data=write(tmp_path / "d.json", BAD), max_length=64, stride=8)
    with pytest.raises(BadInputError, match="at least one answer inside a window"):
        task.train_features()


def test_completion_counts_empty_answers_and_cut_contexts(random_model, tmp_path):
    long = question(6, [("Zebra", 600)], context="word " * 120 + "Zebra")
    data = write(tmp_path / "d.json", [GOOD, *BAD, long])
    task = qalof.task("squad-completion", source=random_model, data=data, max_length=72, max_new_tokens=4)
    assert len(task.train_features()) == 4
    assert task.train_counts() == {"no_answer": 3, "truncated": 1, "question_too_long": 0}
    model = load_pretrained(random_model, task.head)
    found = task.evaluate(model)
    without = [not example.answers for example in task.validation]
    assert [tokens == 0 for tokens in found.weights["loss"]] == without
    assert [score == 0 for score in found.per_example["loss"]] == without
    counts = found.counts
    golds = {"without_gold": 1, "empty_gold": 2, "gold_not_in_context": 2}
    assert counts == {"truncated": 1, "question_too_long": 0, **golds}
    nothing = write(tmp_path / "n.json", BAD[2:])
    with pytest.raises(BadInputError, match="at least one answer"):
        qalof.task("squad-completion", source=random_model, data=nothing).train_features()


def test_completion_has_no_loss_without_any_answer_and_says_so(random_model, tmp_path):
    data = write(tmp_path / "d.json", [question(1, []), GOOD])
    task = qalof.task("squad-completion", source=random_model, data=data, max_length=72)
    with pytest.raises(BadInputError, match="gold answer: got none in 1"):
        task.evaluate(Idle(), limit=1)


def test_counts_do_not_depend_on_the_cache(random_model, tmp_path, monkeypatch):
    monkeypatch.setenv("QALOF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("qalof.tasks.feature_cache.SMALL", 1)
    data = write(tmp_path / "d.json", [GOOD, BAD[2], question(6, [("end", 600)], context="word " * 120 + "end")])
    counts = []
    for _ in range(2):
        task = qalof.task("squad-completion", source=random_model, data=data, max_length=72)
        task.train_features()
        counts.append(task.train_counts())
    assert counts == [{"no_answer": 1, "truncated": 1, "question_too_long": 0}] * 2


@pytest.mark.parametrize("name", ["squad-span", "squad-completion"])
def test_counts_are_the_same_before_and_after_features_and_scores_are_read(random_model, tmp_path, name):
    data = write(tmp_path / "d.json", [GOOD, *BAD, question(6, [("end", 600)], context="word " * 120 + "end")])
    options = {"stride": 8, "max_length": 64} if name == "squad-span" else {"max_length": 72, "max_new_tokens": 4}
    task = qalof.task(name, source=random_model, data=data, **options)
    before = task.train_counts()
    assert any(before.values())
    for _ in range(2):
        assert len(task.train_features())
        task.evaluate(load_pretrained(random_model, task.head))
        assert task.train_counts() == before


def test_a_sequence_longer_than_the_model_is_refused_before_it_runs(random_model):
    task = qalof.task("squad-span", source=random_model, max_length=786, stride=128)
    model = load_pretrained(random_model, task.head)
    with pytest.raises(BadInputError, match="max_length must fit the model's 128 positions: got 786"):
        check_length(task, model)
    check_length(qalof.task("squad-span", source=random_model, max_length=128, stride=16), model)


def test_truncated_texts_are_counted_where_they_are_scored(random_model, tmp_path):
    (tmp_path / "labels.json").write_text('["no", "yes"]')
    rows = [{"text": "short", "label": 0}, {"text": "long " * 50, "label": 1}, {"text": "long " * 60, "label": 1}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(text)
    task = qalof.task("classification", source=random_model, data=str(tmp_path), max_length=16)
    model = load_pretrained(random_model, task.head, labels=2)
    assert task.evaluate(model).counts == {"truncated": 2}
    assert task.evaluate(model, limit=2).counts == {"truncated": 1}
    task.train_features()
    assert task.train_counts() == {"truncated": 2}


@pytest.mark.parametrize(
    ("paragraph", "law"),
    [
        (question(9, [("Oslo", 1)], id=None), r"data\[0\].paragraphs\[7000\].qas\[0\] lacks 'id'"),
        (question(9, [("Oslo", 1)], question=None), r"paragraphs\[7000\].qas\[0\] lacks 'question'"),
        ({"context": "c", "qas": [{"id": "9", "question": "Where?"}]}, r"paragraphs\[7000\].qas\[0\] lacks 'answers'"),
        (question(9, [("Oslo", "first")]), r"paragraphs\[7000\].qas\[0\] invalid literal .*'first'"),
        (question(9, [(None, 1)]), r"paragraphs\[7000\].qas\[0\] must have text as 'text': got None"),
        (question(9, [], question=7), r"paragraphs\[7000\].qas\[0\] must have text as 'question': got 7"),
        ({"qas": []}, r"paragraphs\[7000\] lacks 'context'"),
        ({"context": "c"}, r"paragraphs\[7000\] lacks 'qas'"),
    ],
)
def test_a_missing_field_of_squad_data_is_named_with_its_place(tmp_path, paragraph, law):
    path = write(tmp_path / "d.json", [GOOD] * 7000 + [paragraph] + [GOOD] * 10)
    with pytest.raises(BadInputError, match=law) as caught:
        load_squad(path, "train")
    assert "\n" not in str(caught.value)


def test_broken_json_of_squad_data_is_named_with_its_line(tmp_path):
    lines = json.dumps({"data": [{"paragraphs": [GOOD] * 800}]}, indent=1).split("\n")
    lines[7000] = lines[7000] + " }"
    (tmp_path / "d.json").write_text("\n".join(lines))
    with pytest.raises(BadInputError, match="is not JSON .*line 700[12]"):
        load_squad(str(tmp_path / "d.json"), "train")


ROW = {"text": "fine", "label": 1}
PIQA = {"goal": "g", "sol1": "a", "sol2": "b", "label": 0}


@pytest.mark.parametrize("broken", ['{"text": "fi', '{"label": 1}', "[1, 2]", "null"])
def test_line_7001_of_a_file_of_lines_is_named(tmp_path, broken):
    for name, row, read in (
        ("texts", ROW, lambda path: ClassificationSettings(str(path), classes=("no", "yes")).train_texts()),
        ("piqa", PIQA, lambda path: load_items("piqa", str(path))),
    ):
        path = tmp_path / f"{name}.jsonl"
        path.write_text((json.dumps(row) + "\n") * 7000 + broken + "\n" + json.dumps(row) + "\n")
        with pytest.raises(BadInputError, match="line 7001") as caught:
            read(path)
        assert "\n" not in str(caught.value)
