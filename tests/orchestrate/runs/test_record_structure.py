"""What MLflow holds of a command: nested runs with true times, parameters that stay readable, data, files and tags."""

import json
import shutil
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.run import recorded, tags_of
from orchestrate.jobs.shared.scores import MOST_SITES, record_bitmap, site_params
from orchestrate.pipeline.run import load_pipeline, run_pipeline
from orchestrate.runs.mlflow_run import FILTERS
from orchestrate.runs.mlflow_store import Place
from orchestrate.runs.mlflow_tracker import Resumed, Tracker
from orchestrate.runs.mlflow_values import MAX_PARAM, flatten
from qalof.bitmap import Bitmap
from qalof.bitmap_names import summary
from qalof.files import write_json
from tests.orchestrate.cli.test_bad_places import LEAST


@pytest.fixture
def tracker(empty_store, tmp_path) -> Tracker:
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    return Tracker.open(tmp_path / "runs")


def below(tracker: Tracker, run) -> list:
    found = tracker.client.search_runs(
        [tracker.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'", order_by=["attributes.start_time"]
    )
    return list(found)


def files_of(tracker: Tracker, run) -> set[str]:
    return {file.path for file in tracker.client.list_artifacts(run.info.run_id)}


@pytest.mark.slow
def test_a_pipeline_is_one_tree_of_runs_with_times_data_files_and_tags(tracker, lm_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = {"checkpoint": str(lm_checkpoint), "limit": 2}
    pipeline = {
        "command": "run", "workers": {"count": 1, "in_process": True}, "title": "two steps",
        "steps": [
            {"name": "scored", "command": "evaluate", "config": {**shared, "bitmaps": [4, "w8a8", "8,4"]}},
            {
                "name": "searched", "command": "search",
                "config": {
                    **shared, "strategy": "random", "max_evaluations": 3,
                    "objectives": ["min:loss", "min:weight_bytes"], "space": {"weight": [4, 8], "activation": [8, 32]},
                },
            },
        ],
    }  # fmt: skip
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))

    def report(folder: Path) -> Path:
        page = folder / "page.html"
        page.write_text(str(folder))
        return page

    began = time.time()
    config = load_pipeline(tmp_path / "pipeline.yaml")
    run_pipeline(config, "runs/two", report=report)
    ended = time.time()
    runs = tracker.client.search_runs([tracker.experiment_id])
    (top,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert (top.info.run_name, top.data.tags["command"], top.info.status) == ("two", "run", "FINISHED")
    assert files_of(tracker, top) == {"pipeline.json", "page.html"}
    steps = below(tracker, top)
    assert [step.info.run_name for step in steps] == ["scored", "searched"]
    assert [len(below(tracker, step)) for step in steps] == [3, 3]
    for step, method in zip(steps, (None, "random"), strict=True):
        tags = step.data.tags
        base = json.loads((lm_checkpoint / "manifest.json").read_text())["base"]["source"]
        assert (tags["command"], tags["model"], tags.get("method")) == (step.data.params["command"], base, method)
        assert top.data.tags["model"] == base, "all steps are about one model"
        assert {"config.yaml", "environment.json"} <= files_of(tracker, step)
        (used,) = tracker.client.get_run(step.info.run_id).inputs.dataset_inputs
        assert (used.dataset.name, used.dataset.source_type, len(used.dataset.digest)) == ("tiny", "qalof", 36)
        assert used.tags[0].value == "evaluation"
        assert began <= step.info.start_time / 1000 + 1e-3 <= step.info.end_time / 1000 <= ended + 1e-3
        for child in below(tracker, step):
            assert step.info.start_time <= child.info.start_time < child.info.end_time <= step.info.end_time
            params = child.data.params
            assert {name for name in params if name.startswith("bits.weight.")}
            assert "summary.average_bits" in params
            stored = tracker.client.download_artifacts(child.info.run_id, "bitmap.json", str(tmp_path))
            assert str(Bitmap.from_json(json.loads(Path(stored).read_text()))) == child.data.tags["bitmap"]
    scored = below(tracker, steps[0])
    apart = [one.info.end_time <= next_one.info.start_time for one, next_one in pairwise(scored)]
    assert all(apart), "in one process, one bitmap is scored after the other"
    assert "front.json" in files_of(tracker, steps[1])
    before = len(tracker.client.search_runs([tracker.experiment_id]))
    run_pipeline(config, "runs/two")
    assert len(tracker.client.search_runs([tracker.experiment_id])) == before, "a finished pipeline adds nothing"


METHODS = {
    "train": "spnet", "sweep": "spnet", "search": "guided", "attack": "gbda", "sensitivity": "metric",
    "export": "packed", "range-test": "cpt", "generate-data": "vocab_sweep", "ptq": "rtn, gptq",
}  # fmt: skip
"""The methods of the least configs; the other commands have nothing to choose."""


@pytest.mark.parametrize("command", JOBS)
def test_every_command_and_its_children_are_found_by_command_model_and_method(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c").mkdir()
    write_json(tmp_path / "c" / "manifest.json", {"base": {"source": "tiny"}})
    job, written = JOBS[command], []
    tracker = Tracker(Place(tmp_path), None)
    monkeypatch.setattr(tracker, "send", lambda *writes: written.extend(writes))
    config = job.config.model_validate(
        {**LEAST[command], **({"checkpoint": "c"} if "checkpoint" in LEAST[command] else {})}
    )
    tags = {"command": command, **tags_of(job, config)}
    with recorded(tmp_path / "c", tracker, {}, tags) as run:
        record_bitmap(run, "one", Bitmap.uniform(["h.0"], 4), {"f1": 1.0}, command)
        run.child("trial", {"bits": 4}, {"f1": 1.0})
        run.child("other", tags={"method": "its own"})
    found = [{name: write["tags"].get(name) for name in FILTERS} for write in written if write["do"] == "create"]
    known = {"command": command, "model": "tiny", "method": METHODS.get(command)}
    assert found == [known, known, known, {**known, "method": "its own"}]


@pytest.mark.parametrize("blocks", [1, 35, 400])
def test_the_parameters_of_a_bitmap_stay_within_mlflows_limits_and_readable_at_any_number_of_sites(blocks):
    sites = [f"model.layers.{block}.{name}" for block in range(blocks) for name in "qkvoud"]
    widths = [f"w{2 + index % 5}a{4 + index % 3}kv{4 + index % 4}" for index in range(len(sites))]
    bitmap = Bitmap.parse(",".join(widths), sites)
    flat = flatten(site_params(bitmap))
    shared = {name: value for name, value in flat.items() if name.startswith("summary.")}
    assert 2 <= len(shared) <= 8
    assert sum(float(value) for name, value in shared.items() if "weights_at" in name) == pytest.approx(1, abs=1e-3)
    assert float(summary(bitmap).partition(" bits")[0]) == pytest.approx(
        float(shared["summary.average_bits"]), abs=0.01
    )
    each = [name for name in flat if name.startswith("bits.")]
    assert len(each) == (3 * len(sites) if len(sites) <= MOST_SITES else 0)
    assert max(map(len, flat.values())) < MAX_PARAM
    alike = flatten(site_params(Bitmap.uniform(sites[:6], 4)))
    assert (alike["bits.activation"], alike["bits.kv"]) == ("4", "4")
    assert alike["bits.weight.model.layers.0.q"] == "4"
    apart = flatten(site_params(Bitmap.uniform(sites, "w4a8k8v4")))
    assert (apart["bits.activation"], apart["bits.kv"]) == ("8", "k8v4")


def test_a_run_that_goes_on_writes_no_bitmap_twice(tracker, tmp_path):
    sites, folder = [f"h.{index}" for index in range(2)], tmp_path / "run"
    folder.mkdir()
    key = "k" * 32

    def work(resume: Resumed | None, bits: tuple[int, ...]) -> None:
        with tracker.parent("search", resume=resume, folder=folder, key=key) as run:
            for number, width in enumerate(bits):
                bitmap = Bitmap.uniform(sites, width)
                record_bitmap(run, f"trial {number}", bitmap, {"f1": width}, "search", identity=f"bitmap {bitmap}")

    work(None, (4, 8))
    first = {run.info.run_id: run.to_dictionary() for run in tracker.client.search_runs([tracker.experiment_id])}
    work(Resumed(None, key), (4, 8, 2))
    again = {run.info.run_id: run.to_dictionary() for run in tracker.client.search_runs([tracker.experiment_id])}
    assert len(again) == len(first) + 1
    for run_id, run in first.items():
        if "mlflow.parentRunId" in run["data"]["tags"]:
            assert again[run_id] == run
