"""A search on Tune: the same result as in this process, whatever ends first."""

import shutil
from pathlib import Path

import pytest
import torch

import orchestrate
import qalof
import search
from orchestrate.config.sections import WorkersConfig
from orchestrate.jobs.run import execute
from orchestrate.jobs.search.config import SearchConfig
from orchestrate.jobs.sensitivity.config import SensitivityConfig
from qalof.files import read_json
from qalof.tasks.factory import describe_task

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def space(span_checkpoint):
    return search.BitmapSpace.of(qalof.load(span_checkpoint), weight=(2, 4, 8))


def test_a_search_on_ray_finds_what_the_same_search_finds_in_process(ray_session, span_checkpoint, space, tmp_path):
    arguments = {"strategy": "guided", "max_evaluations": 14, "limits": {"average_bits": 6.0}, "seed": 5}
    arguments["options"] = {"step_below": 6.5}
    evaluator = search.LocalEvaluator(qalof.load(span_checkpoint), qalof.task_of(span_checkpoint), 8)
    here = search.run(space, evaluator, storage=tmp_path / "here.jsonl", **arguments)
    workers = WorkersConfig(count=2, threads=1)
    there = orchestrate.search(
        space,
        orchestrate.CheckpointEvaluator(span_checkpoint, 8, workers),
        storage=tmp_path / "there.jsonl",
        **arguments,
    )
    assert there.front.equals(here.front)
    assert [p.bitmap for p in there.points] == [p.bitmap for p in here.points]
    assert all(point.cost.average_bits <= 6.0 for point in there.points)


def test_a_search_goes_on_from_its_record_without_evaluating_anything_twice(
    ray_session, span_checkpoint, space, tmp_path
):
    evaluator = orchestrate.CheckpointEvaluator(span_checkpoint, 8, WorkersConfig(count=2, threads=1))
    storage = tmp_path / "search.jsonl"
    orchestrate.search(space, evaluator, strategy="random", max_evaluations=6, storage=storage)
    lines = storage.read_text().splitlines()
    whole = orchestrate.search(space, evaluator, strategy="random", max_evaluations=10, storage=storage)
    after = storage.read_text().splitlines()
    assert after[: len(lines)] == lines
    assert len(after) - len(lines) == 4
    assert len(whole.points) == 10


def test_a_bitmap_that_gives_no_number_is_a_failed_trial_of_the_command_and_not_its_end(lm_checkpoint, tmp_path):
    checkpoint = shutil.copytree(lm_checkpoint, tmp_path / "checkpoint")
    model = qalof.load(checkpoint)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name and ".4." in name:
                parameter.fill_(1e38)  # finite on disk, and not in a product
    qalof.save(model, checkpoint, {"task": describe_task(qalof.task_of(checkpoint))})
    config = SearchConfig.model_validate(
        {
            "checkpoint": str(checkpoint),
            "limit": 4,
            "strategy": "random",
            "max_evaluations": 5,
            "space": {"weight": [4, 8]},
            "workers": {"count": 1, "in_process": True, "threads": 1},
            "tracking": {"root": str(tmp_path)},
        }
    )
    result = execute("search", config, tmp_path / "run")
    assert result["evaluations"] == 5
    assert [row["bitmap"] for row in result["front"]] == ["8"]
    assert [failed["reason"] for failed in result["failures"]] == ["loss is nan"] * 4


def test_the_search_command_leaves_the_front_as_json_csv_and_png_and_a_run_for_each_trial(
    ray_session, span_checkpoint, tmp_path
):
    config = SearchConfig.model_validate(
        {
            "checkpoint": str(span_checkpoint),
            "limit": 8,
            "strategy": "nsga2",
            "max_evaluations": 6,
            "limits": {"average_bits": 6.0},
            "workers": {"count": 2, "threads": 1},
            "tracking": {"root": str(tmp_path)},
        }
    )
    result = execute("search", config, tmp_path / "run")
    assert {"front.json", "front.csv", "front.png", "search.jsonl"} <= {p.name for p in (tmp_path / "run").iterdir()}
    assert all(row["average_bits"] <= 6.0 for row in result["front"])
    runs = children(tmp_path)
    assert len(runs) == result["evaluations"] == 6
    assert all({"f1", "exact_match", "weight_bytes", "average_bits"} <= run.data.metrics.keys() for run in runs)
    assert all(float(run.data.params["bits.weight.h.0.attn.c_attn"]) in (2, 4, 8) for run in runs)
    assert all("bitmap" in run.data.tags for run in runs)
    assert all(run.info.start_time < run.info.end_time for run in runs), "each has the times of its own trial"


def test_sensitivity_ranks_every_site(ray_session, span_checkpoint, tmp_path):
    config = SensitivityConfig.model_validate(
        {
            "checkpoint": str(span_checkpoint),
            "limit": 8,
            "workers": {"count": 2, "threads": 1},
            "tracking": {"root": str(tmp_path)},
        }
    )
    result = execute("sensitivity", config, tmp_path / "run")
    assert len(result["ranking"]) == 8
    drops = [row["f1_drop"] for row in result["ranking"]]
    assert drops == sorted(drops)


def children(root: Path):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("qalof").experiment_id])
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert read_json(root / "run" / "tracking.json", "tracking")["run"] == parents[0].info.run_id
    return [run for run in found if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
