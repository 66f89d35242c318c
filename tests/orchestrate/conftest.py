"""Checkpoints of a random model, without training."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import qalof
from orchestrate.config.base import BaseConfig
from orchestrate.jobs.base import Job
from orchestrate.runs.mlflow_tracker import Tracker
from qalof.model.adapters import AdapterSpec
from qalof.model.pretrained import BaseModel
from qalof.model.switchable import build
from qalof.tasks.base import Task
from qalof.tasks.factory import describe_task, task


def save_checkpoint(work: Task, source: str, folder: Path) -> Path:
    model = build(BaseModel(source, work.head, labels=work.labels), {"4": AdapterSpec(2), "8": AdapterSpec(2)})
    qalof.save(model, folder, {"task": describe_task(work)})
    return folder


@pytest.fixture(scope="session")
def span_checkpoint(random_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A span model with adapters at 4 and 8 bits, scored on 12 questions."""
    settings = {"max_length": 96, "stride": 16, "validation_split": "validation[:12]"}
    work = task("squad-span", source=random_model, **settings)
    return save_checkpoint(work, random_model, tmp_path_factory.mktemp("span") / "checkpoint")


@pytest.fixture(scope="session")
def lm_checkpoint(random_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model with adapters at 4 and 8 bits, scored on short windows of the shipped text."""
    work = task("language-modeling", source=random_model, max_length=32, stride=16)
    return save_checkpoint(work, random_model, tmp_path_factory.mktemp("lm") / "checkpoint")


@pytest.fixture(scope="session")
def review_checkpoint(random_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A review classifier with adapters at 4 and 8 bits."""
    work = task("classification", source=random_model, max_length=64)
    return save_checkpoint(work, random_model, tmp_path_factory.mktemp("reviews") / "checkpoint")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record without runs: MLflow takes seconds to make its tables, so tests copy this one."""
    root = tmp_path_factory.mktemp("store")
    Tracker.open(root, experiment="unused")
    return root / "mlflow.db"


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command; returns its exit code, standard output and standard error."""
    from orchestrate.cli.app import main

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qalof", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture(autouse=True)
def quick(quick_commands: None) -> None:
    """Most tests here run commands."""


@pytest.fixture(scope="session")
def job_of() -> Callable[..., Job[Any, Any]]:
    """Makes a job of plain functions, to stand in for one."""

    def make(
        name: str, config: type[BaseConfig], check: Callable[[Any], Any], work: Callable[..., Any]
    ) -> Job[Any, Any]:
        body = {
            "name": name,
            "config": config,
            "check": lambda self, given: check(given),
            "work": lambda self, *given: work(*given),
        }
        made: Job[Any, Any] = type("StandIn", (Job,), body)()
        return made

    return make


@pytest.fixture
def json_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """``json_of("evaluate", ...)`` runs a command in the present folder, and returns the JSON that it prints last."""
    from orchestrate.cli.app import main

    def run(*words: object) -> Any:
        monkeypatch.setattr(sys, "argv", ["qalof", *map(str, words), "--json"])
        main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run
