"""A command that works in this process reads a checkpoint once, whoever in it asks for its parts."""

import json
import pickle
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

import qalof.files
from orchestrate.cli.app import main
from orchestrate.jobs.shared.checkpoint import open_checkpoint
from qalof.checkpoint.model import rebuild
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.errors import BadInputError
from qalof.export.packed import save_packed
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel
from qalof.model.switchable import SwitchableModel, build
from qalof.tasks.factory import describe_task, task

ONE = ["limit=2", "workers.count=1", "workers.in_process=true"]
COMMANDS = {
    "evaluate": ["bitmaps=[8,4]"],
    "sensitivity": ["unit=block"],
    "sensitivity of outputs": ["score=output_error", "reduced=[w4]"],
    "sensitivity of a table": ["score=fisher", "weight=[4]"],
    "search": ["space.weight=[4,8]", "space.group=block", "max_evaluations=2", "strategy=random"],
    "attack": ["bitmaps=[8]", "method={name: gbda, settings: {iterations: 1}}"],
    "profile": ["bitmaps=[8]", "sequences=1", "tokens=8", "repeats=1", "measures=[size]"],
}
"""What is done of each command that takes a checkpoint, by the command's name and perhaps a note."""


@pytest.fixture
def counted(monkeypatch):
    """How often each file was hashed, by its name, and how many models were made."""
    hashed, made = Counter(), Counter()
    digest, start = qalof.files.digest, SwitchableModel.__init__

    def counting(path):
        hashed[str(path)] += 1
        return digest(path)

    def making(self, *given, **named):
        made["models"] += 1
        start(self, *given, **named)

    monkeypatch.setattr("qalof.files.digest", counting)
    monkeypatch.setattr(SwitchableModel, "__init__", making)
    return hashed, made


@pytest.mark.parametrize("words", COMMANDS.items(), ids=lambda words: words[0])
def test_a_command_in_one_process_hashes_each_file_once_and_makes_one_model(
    words, counted, review_checkpoint, lm_checkpoint, monkeypatch, tmp_path, capsys
):
    hashed, made = counted
    command, more = words[0].split()[0], words[1]
    checkpoint = review_checkpoint if command == "attack" else lm_checkpoint
    one = [word for word in ONE if command != "profile" or not word.startswith("limit")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["qalof", command, "--checkpoint", str(checkpoint), *more, *one, "--json"])
    main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])
    of_checkpoint = {path: count for path, count in hashed.items() if Path(path).is_relative_to(checkpoint)}
    files = [path for path in checkpoint.rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert {path: of_checkpoint[str(path)] for path in files} == dict.fromkeys(files, 1)
    assert made["models"] == 1


def test_the_parts_of_an_open_checkpoint_are_read_once(counted, lm_checkpoint):
    hashed, made = counted
    opened = OpenCheckpoint(lm_checkpoint)
    assert not hashed, "nothing is read before anybody asks"
    assert opened.model is opened.runnable
    assert opened.task is opened.task
    assert opened.fingerprint == OpenCheckpoint(lm_checkpoint).fingerprint
    assert opened.described.sites == opened.model.site_names
    assert made["models"] == 1
    assert opened.fresh_model() is not opened.model


def test_an_open_checkpoint_is_opened_again_in_another_process(lm_checkpoint):
    opened = OpenCheckpoint(lm_checkpoint)
    assert opened.model is not None
    sent = pickle.dumps(opened)
    assert len(sent) < 1000, "its folder's name travels, and no weight"
    assert pickle.loads(sent).folder == opened.folder


def test_a_model_that_is_dropped_is_loaded_again(lm_checkpoint):
    opened = OpenCheckpoint(lm_checkpoint)
    first = opened.model
    opened.drop_model()
    assert opened.model is not first
    assert opened.model.site_names == first.site_names


def test_a_packed_folder_is_runnable_and_no_model_to_switch(lm_checkpoint, tmp_path):
    save_packed(rebuild(OpenCheckpoint(lm_checkpoint).described), 4, tmp_path / "packed")
    opened = OpenCheckpoint(tmp_path / "packed")
    assert len({bits.weight for bits in opened.runnable.bitmap.values()}) == 1
    with pytest.raises(BadInputError, match="packed model"):
        _ = opened.model


def test_a_classifier_opens_without_its_data_where_nothing_is_scored(tmp_path, random_model):
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text('{"text": "a", "label": "no"}\n{"text": "b", "label": "yes"}\n')
    work = task("classification", source=random_model, data=str(data), validation_split="train")
    model = build(BaseModel(random_model, work.head, labels=2), {"8": AdapterSpec(2)})
    qalof.save(model, tmp_path / "checkpoint", {"task": describe_task(work)})
    shutil.rmtree(data)
    assert open_checkpoint(str(tmp_path / "checkpoint")).task.label_names == ("no", "yes")
