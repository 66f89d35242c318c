"""A digest is of content: use, place and spelling leave it as it is, and another content gives another one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qalof.digests import tokenizer_digest
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel, load_tokenizer
from qalof.model.switchable import build
from qalof.tasks.factory import TASKS, make_task
from qalof.tasks.feature_cache import column, map_cached
from qalof.tiny import REVIEWS_DIR, SQUAD_DIR
from search import LocalEvaluator

QUICK = {
    "squad-span": {"max_length": 96, "stride": 16, "train_split": "train[:4]", "validation_split": "validation[:4]"},
    "squad-completion": {
        "max_length": 96, "max_new_tokens": 2, "train_split": "train[:4]", "validation_split": "validation[:4]"
    },
    "language-modeling": {"max_length": 64, "stride": 32},
    "classification": {"max_length": 64},
    "zero-shot": {"data": "tiny", "limit": 4},
}  # fmt: skip
COUNTED = """
import json, sys
from qalof.tasks.factory import make_task
print(json.dumps({n: make_task(n, s, sys.argv[2]).fingerprint() for n, s in json.loads(sys.argv[1]).items()}))
"""


def use(task, model) -> None:
    """Everything that a task is asked for in training and scoring."""
    if task.name != "zero-shot":
        features = task.train_features()
        task.label_rows(model(**task.model_inputs(task.collate(features[:2]))), task.collate(features[:2]))
    task.evaluate(model, limit=2)


def test_every_task_has_a_place_here():
    assert set(QUICK) == set(TASKS)


@pytest.mark.parametrize("name", QUICK)
def test_use_changes_no_fingerprint_of_a_task_or_an_evaluator(name, random_model):
    task = make_task(name, QUICK[name], random_model)
    model = build(BaseModel(random_model, task.head, labels=task.labels), {"4": AdapterSpec(2), "8": AdapterSpec(2)})
    evaluator = LocalEvaluator(model.eval(), task, limit=2)
    before = task.fingerprint(), evaluator.fingerprint(), tokenizer_digest(task.tokenizer)
    use(task, model)
    evaluator.evaluate([model.set_bitmap(4), model.set_bitmap(8)])
    if name == "squad-completion":
        model.generate(input_ids=task.collate(task.train_features()[:1])["input_ids"], max_new_tokens=2)
    assert (task.fingerprint(), evaluator.fingerprint(), tokenizer_digest(task.tokenizer)) == before
    assert make_task(name, QUICK[name], random_model).fingerprint() == before[0]


@pytest.mark.parametrize(
    "call",
    [
        lambda tokenizer: tokenizer("a b c", truncation=True, max_length=2),
        lambda tokenizer: tokenizer(["a", "b c d"], padding=True),
        lambda tokenizer: tokenizer(["a", "b c"], padding="max_length", max_length=9, truncation=True),
        lambda tokenizer: tokenizer(["a"], ["b c d e"], truncation="only_second", max_length=3, stride=1),
        lambda tokenizer: tokenizer("a b", add_special_tokens=False, return_overflowing_tokens=True),
        lambda tokenizer: tokenizer.encode("a <b>", split_special_tokens=True),
        lambda tokenizer: tokenizer.decode([1, 2, 3], skip_special_tokens=True),
    ],
)
def test_no_call_of_a_tokenizer_changes_its_digest(call, random_model):
    tokenizer = load_tokenizer(random_model)
    before = tokenizer_digest(tokenizer)
    call(tokenizer)
    assert tokenizer_digest(tokenizer) == before


def test_another_vocabulary_or_special_token_is_another_tokenizer(random_model):
    tokenizer = load_tokenizer(random_model)
    digests = {tokenizer_digest(tokenizer)}
    tokenizer.add_tokens(["<word>"])
    digests.add(tokenizer_digest(tokenizer))
    tokenizer.eos_token = "<word>"
    digests.add(tokenizer_digest(tokenizer))
    assert len(digests) == 3


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """Data of every task as local files, and a model beside them."""
    folder = tmp_path_factory.mktemp("local")
    shutil.copytree(SQUAD_DIR, folder / "squad")
    shutil.copytree(REVIEWS_DIR, folder / "reviews")
    (folder / "texts").mkdir()
    for split in ("train", "validation"):
        (folder / "texts" / f"{split}.txt").write_text(f"one small {split} text " * 40)
    item = {"passage": "It rains.", "question": "does it rain", "answer": True}
    (folder / "boolq.jsonl").write_text(json.dumps(item) + "\n")
    return folder


PLACES = {
    "squad-span": "squad",
    "squad-completion": "squad",
    "language-modeling": "texts",
    "classification": "reviews",
    "zero-shot": "boolq.jsonl",
}


@pytest.mark.slow
def test_neither_process_nor_folder_nor_spelling_changes_a_fingerprint(local, random_model, monkeypatch):
    monkeypatch.chdir(local.parent)
    spellings = [str(local), f"./{local.name}", f"{local}/../{local.name}"]
    found = [
        {name: make_task(name, {**QUICK[name], "data": f"{place}/{PLACES[name]}"}, random_model).fingerprint()
         for name in QUICK}
        for place in spellings
    ]  # fmt: skip
    there = {name: {**QUICK[name], "data": PLACES[name]} for name in QUICK}
    words = [sys.executable, "-c", COUNTED, json.dumps(there), random_model]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONHASHSEED": "7"}
    done = subprocess.run(words, cwd=local, env=environment, capture_output=True, text=True, check=True)
    assert [json.loads(done.stdout.splitlines()[-1])] * len(found) == found


@pytest.mark.parametrize("name", QUICK)
def test_another_content_has_another_fingerprint(name, local, random_model, tmp_path):
    place = tmp_path / "data"
    shutil.copytree(local, place)
    settings = {**QUICK[name], "data": str(place / PLACES[name])}
    before = make_task(name, settings, random_model).fingerprint()
    files = sorted(path for path in place.rglob("*") if path.suffix in (".json", ".jsonl", ".txt"))
    for path in files:
        if "labels" not in path.name:
            path.write_text(path.read_text().replace("small", "large").replace("rains", "snows").replace("the", "The"))
    assert make_task(name, settings, random_model).fingerprint() != before


def test_training_a_model_on_changes_its_evaluators_fingerprint(random_model):
    import torch

    task = make_task("squad-span", QUICK["squad-span"], random_model)
    model = build(BaseModel(random_model, task.head), {"4": AdapterSpec(2)})
    evaluator = LocalEvaluator(model, task)
    before = evaluator.fingerprint()
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).add_(1.0)
    assert evaluator.fingerprint() != before


def test_a_cached_map_is_used_by_a_task_that_was_used_before(random_model, monkeypatch, tmp_path):
    monkeypatch.setenv("QALOF_CACHE", str(tmp_path))
    monkeypatch.setattr("qalof.tasks.feature_cache.SMALL", 1)
    task = make_task("squad-span", QUICK["squad-span"], random_model)
    first = task.train_features()
    assert task.train_features() == first
    assert len(list((tmp_path / "features").glob("*.arrow"))) == 1
    assert list(map_cached([{"a": 1}], lambda columns: {"b": columns["a"]}, "k" * 64)) == [{"b": 1}]


@pytest.mark.parametrize("small", [1, 1_000_000], ids=["file", "memory"])
def test_what_is_cached_is_read_row_by_row_and_encoded_once(tmp_path, monkeypatch, small):
    monkeypatch.setenv("QALOF_CACHE", str(tmp_path))
    monkeypatch.setattr("qalof.tasks.feature_cache.SMALL", small)
    encoded = []

    def twice(columns):
        encoded.extend(columns["a"])
        return {"b": [2 * value for value in columns["a"]], "c": [[value] for value in columns["a"]]}

    rows = [{"a": value} for value in range(5)]
    for _ in range(2):
        found = map_cached(rows, twice, "k" * 64)
        assert len(found) == 5
        assert found[3] == {"b": 6, "c": [3]}
        assert found[-1] == {"b": 8, "c": [4]}
        assert list(found[1:3]) == [{"b": 2, "c": [1]}, {"b": 4, "c": [2]}]
        assert column(found, "b") == [0, 2, 4, 6, 8]
    assert len(encoded) == (5 if small == 1 else 10)


@pytest.mark.parametrize("name", ["squad-span", "squad-completion"])
def test_a_task_tokenizes_its_training_data_once_however_often_it_is_asked(name, random_model, monkeypatch):
    task = make_task(name, QUICK[name], random_model)
    first = task.train_features()
    monkeypatch.setattr(f"qalof.tasks.{name.replace('-', '_')}.load_squad", None)
    assert task.train_features() is first
