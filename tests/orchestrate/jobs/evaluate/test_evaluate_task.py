"""``evaluate`` with a task of its own: what a checkpoint scores on something it was not trained for."""

import json
import sys

import pytest

import qalof
from orchestrate.cli.app import main
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel
from qalof.model.switchable import build
from qalof.tasks.factory import describe_task

ROWS = [
    {"question": "is rome in italy", "passage": "Rome is the capital of Italy.", "answer": True},
    {"question": "does anna fear cats", "passage": "Anna Berg fears a small white duck.", "answer": False},
]


@pytest.fixture(scope="module")
def checkpoint(random_model, tmp_path_factory):
    """A language model's checkpoint, trained for completion."""
    work = qalof.task("squad-completion", source=random_model, max_length=64)
    model = build(BaseModel(random_model, work.head), {"4": AdapterSpec(2)})
    folder = tmp_path_factory.mktemp("completion") / "checkpoint"
    qalof.save(model, folder, {"task": describe_task(work)})
    return folder


@pytest.fixture(scope="module")
def boolq(tmp_path_factory):
    path = tmp_path_factory.mktemp("boolq") / "boolq.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["qalof", "evaluate", *map(str, words), "--json", "workers.count=1"])
    main()
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.mark.ray
def test_a_checkpoint_is_scored_on_zero_shot_and_on_perplexity(
    ray_session, checkpoint, boolq, random_model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    zero_shot = f"task={{name: zero-shot, settings: {{dataset: boolq, data: {boolq}}}}}"
    found = run(monkeypatch, capsys, "--checkpoint", checkpoint, "--bitmap", "4", zero_shot, "--output", "zero")
    (row,) = found["rows"]
    assert found["task"] == "zero-shot"
    assert row["examples"] == 2
    model = qalof.load(checkpoint)
    model.set_bitmap(4)
    here = qalof.task("zero-shot", source=random_model, dataset="boolq", data=str(boolq)).evaluate(model)
    assert row["metrics"]["acc"][0] == here["acc"]
    kept = json.loads((tmp_path / "zero" / "evaluations.json").read_text())
    assert kept[0]["evaluation"]["per_example"]["acc"] == here.per_example["acc"]
    text = "task={name: language-modeling, settings: {data: tiny, max_length: 32, stride: 16}}"
    words = ["--checkpoint", checkpoint, "--bitmap", "4", text, "limit=3", "--output", "text"]
    found = run(monkeypatch, capsys, *words)
    assert set(found["rows"][0]["metrics"]) == {"loss", "perplexity", "word_perplexity", "accuracy"}
    # without a task it is the one it was trained for
    words = ["--checkpoint", checkpoint, "--bitmap", "4", "limit=2", "--output", "own"]
    assert run(monkeypatch, capsys, *words)["task"] == "squad-completion"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task={name: zero-shott}", "did you mean 'zero-shot'"),
        ("task={name: zero-shot, settings: {dataset: boolk}}", "boolk"),
        ("task={name: zero-shot, settings: {data: /no/such.jsonl}}", "/no/such.jsonl does not exist"),
        (
            "task={name: language-modeling, settings: {max_length: 400, stride: 8}}",
            "the model's 128 positions: got 400",
        ),
        ("task={name: squad-span, settings: {max_length: 64, stride: 8}}", "needs a span head"),
    ],
)
def test_a_task_that_cannot_be_scored_is_one_line(checkpoint, tmp_path, monkeypatch, capsys, override, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["qalof", "evaluate", "--checkpoint", str(checkpoint), override])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (2, 1), error
    assert said in error
    assert not list(tmp_path.iterdir())
