"""No command writes where another process does: jobs, pipelines and exports are refused, shared steps wait."""

import sys
import threading
from pathlib import Path

import pytest

from orchestrate.cli.app import main
from orchestrate.config.loader import validate
from orchestrate.config.sections import WorkersConfig
from orchestrate.config.train import TrainConfig
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.run import execute
from orchestrate.pipeline.plan import PipelineConfig
from orchestrate.pipeline.run import run_pipeline
from qalof.errors import BadInputError
from qalof.locks import held

TRAIN = {
    "task": {"name": "squad-span"},
    "objective": {"name": "spnet"},
    "workers": {"count": 1, "in_process": True},
}


@pytest.fixture
def done(monkeypatch, job_of):
    """A training that is done at once; counts how often."""
    times: list[Path] = []

    def work(config, checked, directory, run):
        times.append(directory.path)
        return {"checkpoint": ""}

    monkeypatch.setitem(JOBS, "train", job_of("train", TrainConfig, lambda config: None, work))
    return times


def config(tmp_path: Path) -> TrainConfig:
    return validate(TrainConfig, {**TRAIN, "tracking": {"root": str(tmp_path / "runs")}}, "test")


@pytest.fixture
def runs(empty_store, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_bytes(empty_store.read_bytes())
    return tmp_path / "runs"


@pytest.mark.parametrize("command", JOBS)
def test_a_job_in_a_folder_that_is_in_use_is_refused_and_nothing_is_written(command, tmp_path, monkeypatch, job_of):
    kind = JOBS[command].config
    monkeypatch.setitem(JOBS, command, job_of(command, kind, lambda config: None, lambda *given: {}))
    given = kind.model_construct(workers=WorkersConfig(count=1, in_process=True))
    with held(tmp_path / "run", "--output"), pytest.raises(BadInputError, match="in use by process"):
        execute(command, given, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_shared_step_waits_and_takes_the_others_result(done, runs, tmp_path):
    with held(tmp_path / "run", "--output"):
        waiting = threading.Thread(
            target=execute, args=("train", config(tmp_path), tmp_path / "run"), kwargs={"wait": True}
        )
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        assert not done
    waiting.join(60)
    assert len(done) == 1
    execute("train", config(tmp_path), tmp_path / "run", wait=True)
    assert len(done) == 1


def test_a_pipeline_in_a_folder_that_is_in_use_is_refused(done, runs, tmp_path):
    step = {"name": "sp", "command": "train", "config": {key: TRAIN[key] for key in ("task", "objective")}}
    data = {"steps": [step], "workers": TRAIN["workers"], "tracking": {"root": str(runs)}}
    pipeline = validate(PipelineConfig, data, "test")
    with held(tmp_path / "all", "--output"), pytest.raises(BadInputError, match="in use by process"):
        run_pipeline(pipeline, tmp_path / "all")
    assert not done
    run_pipeline(pipeline, tmp_path / "all")
    assert done == [tmp_path / "all" / "sp"]


def test_an_export_to_a_place_that_is_in_use_is_refused(span_checkpoint, tmp_path, monkeypatch, capsys):
    words = ["export", "--checkpoint", str(span_checkpoint), "--bitmap", "8", "--output", str(tmp_path / "packed")]
    monkeypatch.setattr(sys, "argv", ["qalof", *words])
    with held(tmp_path / "packed", "--output"), pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "in use by process" in capsys.readouterr().err
    assert not (tmp_path / "packed").exists()
