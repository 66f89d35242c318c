"""Whatever is killed in a training run, the weights are those of the run that nobody disturbed, bit for bit."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from orchestrate.config.loader import to_plain
from orchestrate.config.train import TrainConfig
from orchestrate.jobs.run import execute
from orchestrate.jobs.train.storage import NAME, SNAPSHOT, kept_checkpoints, prepare, step_folder
from orchestrate.runs.directory import read_result
from qalof.checkpoint.manifest import read_manifest
from qalof.files import read_whole_lines, write_text

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS = 200


@pytest.fixture(scope="module")
def config(random_model, tmp_path_factory) -> TrainConfig:
    """Many steps, of milliseconds each, so that a kill falls in the middle."""
    data = {"max_length": 96, "stride": 16, "train_split": "train[:48]", "validation_split": "validation[:8]"}
    return TrainConfig.model_validate(
        {
            "model": {"source": random_model},
            "task": {"name": "squad-span", "settings": data},
            "adapters": {"rank": 2, "dropout": 0.1},
            "objective": {"name": "cascade", "bitmaps": [8, 4]},
            "training": {"steps": STEPS, "batch_size": 4, "learning_rate": 0.01, "checkpoint_every": 25, "seed": 3},
            "workers": {"count": 1, "threads": 1},
            "evaluation": {"bitmaps": [8], "limit": 4},
            "keep_best": {"metric": "min:train_loss"},
            "validation": {"evaluate_every": 20, "limit": 2},
            "tracking": {"root": str(tmp_path_factory.mktemp("tracking"))},
        }
    )


@pytest.fixture(scope="module")
def whole(ray_session, config, tmp_path_factory) -> Path:
    """The run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    execute("train", config, folder)
    return folder


@pytest.fixture(scope="module")
def of_two(config) -> TrainConfig:
    """Two workers, which wait for each other in every step; half as many steps."""
    workers = config.workers.model_copy(update={"count": 2})
    return config.model_copy(update={"workers": workers, "training": replace(config.training, steps=STEPS // 2)})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = sorted(
        path for name in ("checkpoint", "checkpoint_best") for path in (folder / name).rglob("*.safetensors")
    )
    assert {path.relative_to(folder).parts[0] for path in found} == {"checkpoint", "checkpoint_best"}
    return {f"{path.relative_to(folder)}/{name}": t for path in found for name, t in load_file(path).items()}


def assert_undisturbed(folder: Path, whole: Path) -> None:
    ours, theirs = weights(folder), weights(whole)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=0, rtol=0, msg=name)
    best, wanted = (read_result(run / "result.json")["best"] for run in (folder, whole))
    assert best | {"checkpoint": ""} == wanted | {"checkpoint": ""}
    assert wanted["step"] % 25 == 0
    assert (folder / "validation.jsonl").read_bytes() == (whole / "validation.jsonl").read_bytes()


def steps_on_record(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in read_whole_lines(folder / "losses.jsonl")]


def reached(folder: Path, step: int) -> bool:
    return len(read_whole_lines(folder / "losses.jsonl")) > step


def of_title(title: str) -> list[psutil.Process]:
    """The processes of that title, of this session's Ray and no other."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith(f"ray::{title}"):
                found.append(process)
    return found


def kill_at(folder: Path, step: int, title: str, killed: list[int]) -> None:
    """SIGKILL one process of that title once ``step`` is reported, and note how many steps were reported by then."""
    until = time.monotonic() + 240
    while time.monotonic() < until and not reached(folder, 0):
        time.sleep(0.02)
    targets = of_title(title)  # this takes as long as some steps, so it is done while there are many left
    while time.monotonic() < until:
        if reached(folder, step):
            targets[-1].kill()
            killed.append(len(read_whole_lines(folder / "losses.jsonl")))
            return
        time.sleep(0.02)


def execute_and_kill(config: TrainConfig, folder: Path, step: int, title: str) -> None:
    """Run a training in which a process of that title is killed in the middle."""
    killed: list[int] = []
    watcher = threading.Thread(target=kill_at, args=(folder, step, title, killed))
    watcher.start()
    execute("train", config, folder)
    watcher.join()
    assert len(killed) == 1
    assert killed[0] < config.training.steps, "the kill fell into the steps"


@pytest.mark.parametrize("title", ["RayTrainWorker", "TrainController"])
def test_a_killed_worker_or_controller_does_not_change_a_bit(config, whole, tmp_path, title):
    execute_and_kill(config, tmp_path / "run", 60, title)
    assert_undisturbed(tmp_path / "run", whole)
    # a worker may outlive its controller for a while: whether steps are repeated is a matter of timing
    assert set(steps_on_record(tmp_path / "run")) == set(range(STEPS))


def test_a_killed_worker_of_two_does_not_change_a_bit(ray_session, of_two, tmp_path):
    execute("train", of_two, tmp_path / "whole")
    execute_and_kill(of_two, tmp_path / "run", 35, "RayTrainWorker")
    assert_undisturbed(tmp_path / "run", tmp_path / "whole")
    assert set(steps_on_record(tmp_path / "run")) == set(range(of_two.training.steps))


def test_a_killed_driver_goes_on_by_the_same_command_without_a_changed_bit(config, whole, tmp_path):
    write_text(tmp_path / "train.yaml", yaml.safe_dump(to_plain(config)))
    folder = tmp_path / "run"
    words = [sys.executable, "-m", "orchestrate", "train", "--config", tmp_path / "train.yaml", "--output", folder]
    first = subprocess.Popen([*map(str, words)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    started = psutil.Process(first.pid)
    until = time.monotonic() + 240
    while time.monotonic() < until and not reached(folder, 60):
        assert first.poll() is None
        time.sleep(0.02)
    left = started.children(recursive=True)
    first.kill()
    first.wait()
    # what the kill, or a torn rewriting of Ray's snapshot, leaves is not gone on with
    _, alive = psutil.wait_procs(left, timeout=30)
    for each in alive:
        each.kill()
    storage = folder / "ray" / NAME
    sources = [kept.step for kept in kept_checkpoints(storage)]
    for kept in kept_checkpoints(storage):
        read_manifest(kept.folder)
    (storage / SNAPSHOT).write_text('{"checkpoint_resu')
    (folder / "losses.jsonl").open("a").write('{"step": 1')
    second = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=280, check=False)
    assert second.returncode == 0, second.stderr
    assert_undisturbed(folder, whole)
    # losses that were on their way when the driver died come from beside the checkpoints, each once
    steps = steps_on_record(folder)
    assert sorted(set(steps)) == list(range(STEPS))
    assert steps[: max(sources)] == list(range(max(sources)))


def test_storage_that_a_kill_left_is_made_ready_and_says_where_to_go_on(whole, tmp_path):
    import shutil

    storage = tmp_path / "storage"
    sources = {kept.step: kept.folder for kept in kept_checkpoints(whole / "ray" / NAME)}
    last = max(sources)
    for step in sources:
        shutil.copytree(sources[step], step_folder(storage, step))
    shutil.copytree(sources[last], step_folder(storage, last + 25))
    next(step_folder(storage, last + 25).rglob("*.safetensors")).write_bytes(b"cut")
    (storage / ".step-000225.new.abc").mkdir()
    (storage / SNAPSHOT).write_text("{")
    assert prepare(storage) == step_folder(storage, last)
    best = read_result(whole / "result.json")["best"]["step"]
    assert {path.name for path in storage.iterdir()} == {f"step-{last:06d}", f"step-{best:06d}"}
    assert prepare(tmp_path / "nothing") is None
