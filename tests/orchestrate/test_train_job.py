"""Training on Ray: any number of workers, any kill, the same weights."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from orchestrate.config import TrainConfig
from orchestrate.config_file import to_plain
from orchestrate.jobs import execute
from qalof.errors import NonFiniteLossError
from qalof.files import read_json, write_text
from qalof.model.switchable import read_manifest

pytestmark = pytest.mark.ray


def config(source, root, **changes):
    data = {
        "model": {"source": source},
        "task": {
            "name": "squad-span",
            "settings": {
                "max_length": 96,
                "stride": 16,
                "train_split": "train[:48]",
                "validation_split": "validation[:8]",
            },
        },
        "adapters": {"rank": 2, "dropout": 0.1},
        "objective": {"name": "cascade", "bitmaps": [8, 4]},
        "training": {"steps": 8, "batch_size": 8, "learning_rate": 0.01, "checkpoint_every": 2, "seed": 3},
        "workers": {"count": 2, "threads": 1},
        "evaluation": {"bitmaps": [8]},
        "tracking": {"root": str(root)},
    }
    for key, value in changes.items():
        section, name = key.split("__")
        data[section] = {**data[section], name: value}
    return TrainConfig.model_validate(data)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    files = sorted((folder / "checkpoint").rglob("*.safetensors"))
    assert files
    return {f"{path.relative_to(folder)}/{name}": t for path in files for name, t in load_file(path).items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], **tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], **(tolerance or {"atol": 0, "rtol": 0}), msg=name)


def losses(folder: Path) -> dict[int, dict[str, float]]:
    import json

    lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    return {line["step"]: line["losses"] for line in lines}


@pytest.fixture(scope="module")
def undisturbed(ray_session, random_model, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    result = execute("train", config(random_model, root), root / "run")
    assert [row["bitmap"] for row in result["rows"]] == ["8"]
    return root / "run"


def kill_a_worker_at(folder: Path, step: int, killed: list[int]) -> None:
    """SIGKILL one training worker once ``step`` is reported."""
    until = time.monotonic() + 240
    while time.monotonic() < until:
        path = folder / "losses.jsonl"
        if path.exists() and len(path.read_text().splitlines()) > step:
            for process in psutil.process_iter(["cmdline"]):
                if "RayTrainWorker" in " ".join(process.info["cmdline"] or []):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    return
        time.sleep(0.02)


def test_a_killed_worker_does_not_change_a_bit_of_the_weights(undisturbed, random_model, tmp_path, monkeypatch):
    killed: list[int] = []
    # a step of this model takes milliseconds: many of them, so that the kill falls in the middle
    longer = config(random_model, tmp_path, training__steps=400, training__checkpoint_every=100)
    execute("train", longer, tmp_path / "whole")
    watcher = threading.Thread(target=kill_a_worker_at, args=(tmp_path / "killed", 120, killed))
    watcher.start()
    execute("train", longer, tmp_path / "killed")
    watcher.join()
    assert len(killed) == 1
    lines = len((tmp_path / "killed" / "losses.jsonl").read_text().splitlines())
    assert lines > 400, "the killed run must have repeated steps"
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


@pytest.mark.slow
def test_eight_workers_train_the_tiny_model_with_the_losses_of_one(ray_session, tmp_path):
    # unrounded activations: a rounding step turns the last bit of a sum into a whole level
    changes = {
        "objective__bitmaps": ["w8a32kv32", "w4a32kv32"],
        "training__batch_size": 16,
        "training__steps": 4,
        "adapters__dropout": 0.0,
    }
    eight = config("tiny", tmp_path, workers__count=8, **changes)
    one = config("tiny", tmp_path, workers__count=1, **changes)
    execute("train", eight, tmp_path / "eight")
    execute("train", one, tmp_path / "one")
    ours, theirs = losses(tmp_path / "eight"), losses(tmp_path / "one")
    assert len(ours) == 4
    for step, values in ours.items():
        assert values == pytest.approx(theirs[step], rel=1e-4)


def test_a_loss_that_is_not_finite_names_step_and_bitmap_and_keeps_the_last_checkpoint(
    undisturbed, random_model, tmp_path
):
    exploding = config(random_model, tmp_path, training__learning_rate=1e30, training__checkpoint_every=1)
    with pytest.raises(NonFiniteLossError) as caught:
        execute("train", exploding, tmp_path / "run")
    assert caught.value.step == 1
    assert str(caught.value.bitmap) in ("8", "4")
    assert not (tmp_path / "run" / "result.json").exists()
    manifest = read_manifest(tmp_path / "run" / "checkpoint")
    assert manifest["extra"]["step"] == 1, manifest["extra"]


@pytest.mark.slow
def test_a_killed_job_goes_on_by_the_same_command_to_the_same_weights(random_model, tmp_path):
    import yaml

    plain = to_plain(config(random_model, tmp_path, training__steps=400, training__checkpoint_every=100))
    path = tmp_path / "train.yaml"
    write_text(path, yaml.safe_dump(plain))
    outcomes = {}
    for name in ("whole", "killed"):
        command = [
            sys.executable,
            "-m",
            "orchestrate",
            "train",
            "--config",
            str(path),
            "--output",
            str(tmp_path / name),
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if name == "killed":
            _kill_at(process, tmp_path / name / "losses.jsonl", 120)
            process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        _, error = process.communicate(timeout=280)
        assert process.returncode == 0, error
        outcomes[name] = weights(tmp_path / name)
    assert_same(outcomes["whole"], outcomes["killed"])
    assert read_json(tmp_path / "killed" / "result.json", "result")["result"]["steps"] == 400


def _kill_at(process: subprocess.Popen[str], path: Path, step: int) -> None:
    """SIGKILL the driver and all that it started, once ``step`` is reported."""
    until = time.monotonic() + 240
    while time.monotonic() < until and not (path.exists() and len(path.read_text().splitlines()) > step):
        assert process.poll() is None
        time.sleep(0.02)
    tree = [process, *psutil.Process(process.pid).children(recursive=True)]
    for each in tree:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue  # it ended with its parent
    process.wait()
