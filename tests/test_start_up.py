"""What a command does before its work: nothing twice, and nothing that it has no use for."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from orchestrate.jobs.registry import JOBS
from qalof.model.layers.switchable_linear import SwitchableLinear
from qalof.precision import all_finite
from qalof.tasks.factory import make_task

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("ray", "pandas", "matplotlib", "mlflow", "optuna", "lm_eval")
VALIDATED = """
import sys
from pathlib import Path
from orchestrate.cli import app
from orchestrate.jobs import run
from orchestrate.pipeline.describe import describe_config
describe_config(Path("configs/train/sp_tiny.yaml"), [])
print(*sorted(name for name in sys.modules if name.endswith(".job")))
for name in ("demo.yaml", "sweep/tiny.yaml"):
    describe_config(Path("configs") / name, [])
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


def test_checking_a_config_imports_its_own_job_and_no_library_of_the_work():
    told = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", VALIDATED]
    done = subprocess.run(words, cwd=ROOT, env=told, capture_output=True, text=True, check=True)
    jobs, libraries = (set(line.split()) for line in done.stdout.splitlines())
    assert jobs == {"orchestrate.jobs.shared.job", "orchestrate.jobs.train.job"}
    assert {"torch", "transformers", "peft"} <= libraries
    assert not libraries & set(HEAVY)


def test_every_job_has_the_name_that_it_is_registered_by():
    assert {name: job.name for name, job in JOBS.items()} == {name: name for name in JOBS}


@pytest.mark.parametrize(
    "name", ["search", "search.judge", "search.strategies", "qalof.model.adapter_spec", "orchestrate.cli.app"]
)
def test_what_runs_no_model_imports_no_torch(name):
    code = f"import sys, {name}; sys.exit(bool({{'torch', 'optuna', 'pandas'}} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


LISTED = """
import sys
from orchestrate.cli.app import app
for words in (["ls", {folder!r}], ["sync", {folder!r}], ["bitmap", "--help"], ["search", "--help"], ["--version"]):
    app(words, standalone_mode=False)
sys.exit("torch" in sys.modules)
"""


def test_commands_that_list_and_help_import_no_torch(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text('{"format_version": 1, "command": "train", "fingerprint": "0", "inputs": {}}')
    (run / "config.yaml").write_text("{}")
    told = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", LISTED.format(folder=str(tmp_path))]
    done = subprocess.run(words, cwd=ROOT, env=told, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout


LENGTHS = {"squad-span": {"max_length": 96, "stride": 16}, "squad-completion": {"max_length": 96, "max_new_tokens": 4}}


@pytest.mark.parametrize("name", LENGTHS)
def test_a_second_start_reads_no_text_and_finds_the_same_features_and_counts(name, tmp_path, monkeypatch, random_model):
    monkeypatch.setenv("QALOF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("qalof.tasks.feature_cache.SMALL", 1)
    settings = {**LENGTHS[name], "train_split": "train[:40]"}
    first = make_task(name, settings, random_model)
    features = list(first.train_features())
    monkeypatch.setattr("qalof.tasks.squad_data.read_json", None)
    # what is scored does not change what is trained on
    again = make_task(name, {**settings, "validation_split": "validation[:3]"}, random_model)
    assert list(again.train_features()) == features
    assert again.train_counts() == first.train_counts()


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("change", ["text", "split", "length"])
def test_other_texts_splits_or_lengths_have_other_features(name, change, tmp_path, monkeypatch, random_model):
    monkeypatch.setenv("QALOF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("qalof.tasks.feature_cache.SMALL", 1)
    data = tmp_path / "train.json"

    def features(question: str, split: str, length: int):
        paragraph = {"context": "The tower was built in 1889 by a company of builders."}
        answer = {"text": "1889", "answer_start": paragraph["context"].index("1889")}
        asked = [{"id": str(n), "question": f"{question} {n}", "answers": [answer]} for n in range(4)]
        data.write_text(json.dumps({"data": [{"paragraphs": [{**paragraph, "qas": asked}]}]}))
        settings = {**LENGTHS[name], "max_length": length, "data": str(data), "train_split": split}
        return list(make_task(name, settings, random_model).train_features())

    before = features("When was it built, number", "train", 96)
    other = {
        "text": ("In which year was it built, number", "train", 96),
        "split": ("When was it built, number", "train[:2]", 96),
        "length": ("When was it built, number", "train", 48),
    }[change]
    after = features(*other)
    assert (after != before) or change == "length"
    assert len(list((tmp_path / "cache" / "features").glob("*.arrow"))) == 2
    assert features("When was it built, number", "train", 96) == before


def test_a_text_is_tokenized_once_however_often_it_is_scored(random_model, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("one small text that is scored again and again " * 20)
    task = make_task(
        "language-modeling", {"data": str(tmp_path / "text.txt"), "max_length": 32, "stride": 16}, random_model
    )
    seen: list[str] = []
    tokenize = type(task)._ids
    monkeypatch.setattr(type(task), "_ids", lambda self, text: seen.append(text) or tokenize(self, text))
    assert task.windows() == task.windows()
    assert task.train_features() == task.train_features()
    assert task.train_counts() == task.train_counts()
    assert len(seen) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_found_wherever_it_stands(dtype, bad):
    torch.manual_seed(0)
    values = torch.randn(7, 5, dtype=torch.float64).to(dtype)
    values[3, 3] = torch.finfo(dtype).max
    assert all_finite(values)
    for place in range(values.numel()):
        spoiled = values.clone()
        spoiled.view(-1)[place] = bad
        assert not all_finite(spoiled)
    assert all_finite(values.new_empty(0, 5))


def test_a_layer_that_takes_its_weight_over_draws_none(monkeypatch):
    layer = nn.Linear(6, 4)
    monkeypatch.setattr("torch.nn.init._no_grad_uniform_", None)
    with pytest.raises(TypeError):
        nn.Linear(6, 4)
    assert torch.equal(SwitchableLinear.of(layer, "site").weight, layer.weight)
