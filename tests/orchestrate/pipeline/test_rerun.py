"""A finished run is recognized before anything is loaded."""

import shutil
from pathlib import Path

import pytest
import torch

from orchestrate.config.loader import validate
from orchestrate.pipeline.plan import PipelineConfig
from orchestrate.pipeline.run import run_pipeline
from qalof.errors import BadInputError

STEPS = 20


@pytest.fixture
def pipeline(span_checkpoint: Path, empty_store: Path, tmp_path: Path) -> PipelineConfig:
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    steps = [
        {
            "name": f"at-{number}",
            "command": "evaluate",
            "config": {"checkpoint": str(span_checkpoint), "limit": 1 + number % 3, "bitmaps": [8]},
        }
        for number in range(STEPS)
    ]
    here = {"workers": {"count": 1, "in_process": True}, "tracking": {"root": str(tmp_path / "runs")}}
    return validate(PipelineConfig, {"steps": steps, **here}, "test")


def test_a_rerun_of_a_finished_pipeline_makes_no_model_connects_to_no_ray_and_returns_the_same_seconds(
    pipeline, tmp_path, monkeypatch
):
    first = run_pipeline(pipeline, tmp_path / "all")
    assert len(first["steps"]) == STEPS

    def made(self, *_, **__):
        raise AssertionError(f"a {type(self).__name__} is made")

    monkeypatch.setattr(torch.nn.Module, "__init__", made)
    monkeypatch.setattr("orchestrate.jobs.run.connect", None)
    on_ray = pipeline.model_copy(update={"workers": pipeline.workers.model_copy(update={"in_process": False})})
    for each in (pipeline, on_ray):
        assert run_pipeline(each, tmp_path / "all")["steps"] == first["steps"]
    # a step whose result is gone is checked again, which makes a model
    (tmp_path / "all" / "at-7" / "result.json").unlink()
    with pytest.raises((AssertionError, BadInputError), match="is made"):
        run_pipeline(pipeline, tmp_path / "all")
