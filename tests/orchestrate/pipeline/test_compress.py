"""From a pretrained model to a runtime in one pipeline: bitmaps of an earlier search, and exports as steps."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from orchestrate.config.loader import validate
from orchestrate.jobs.export.config import ExportFormat
from orchestrate.pipeline.describe import describe_config
from orchestrate.pipeline.plan import PipelineConfig, load_pipeline, plan
from orchestrate.pipeline.run import run_pipeline
from qalof.errors import BadInputError
from qalof.export.gguf_file import read_gguf
from qalof.export.packed_load import read_layout

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
COMPRESS = CONFIGS / "pipeline" / "compress.yaml"
SEARCH = {"name": "found", "command": "search", "config": {"checkpoint": "c"}}
TRAIN = {"task": {"name": "language-modeling"}, "adapters": {"widths": [8, 4]}}
PLACES = {
    "export": lambda bitmap: {"checkpoint": "c", "bitmap": bitmap},
    "evaluate": lambda bitmap: {"checkpoint": "c", "bitmaps": [8, bitmap]},
    "attack": lambda bitmap: {"checkpoint": "c", "bitmaps": [8], "random_precision": {"bitmaps": [bitmap, 4]}},
    "profile": lambda bitmap: {"checkpoint": "c", "bitmaps": [bitmap]},
    "train": lambda bitmap: {**TRAIN, "objective": {"name": "spnet", "bitmaps": [8, bitmap]}},
    "ptq": lambda bitmap: {"checkpoint": "c", "methods": [{"name": "a", "bitmaps": [bitmap]}]},
}
"""By command: a config with a bitmap in a place of its own."""


def planned(command, bitmap):
    steps = [SEARCH, {"name": "s", "command": command, "config": PLACES[command](bitmap)}]
    return plan(validate(PipelineConfig, {"steps": steps}, "test"), Path("/runs/p"))[1]


@pytest.mark.parametrize("command", PLACES)
@pytest.mark.parametrize(
    ("short", "text"),
    [
        ({"step": "found", "best": {"average_bits": 4.5}}, "step:found/front.json#average_bits=4.5"),
        ({"step": "found", "best": {"weight_bytes": 100_000}}, "step:found/front.json#weight_bytes=100000"),
        ({"step": "found", "id": "ogo666"}, "step:found/front.json#ogo666"),
        ({"step": "found", "id": 3}, "step:found/front.json#3"),
    ],
)
def test_a_bitmap_of_a_search_may_be_written_short_wherever_a_bitmap_stands(command, short, text):
    assert planned(command, short) == planned(command, text)
    assert planned(command, short).waits


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": "found"},
        {"step": "found", "bset": {"average_bits": 4.5}},
        {"step": "found", "best": {}},
        {"step": "found", "best": {"average_bits": 4, "weight_bytes": 9}},
        {"step": "found", "best": {"average_bits": "few"}},
        {"step": "found", "best": 4.5},
        {"step": "found", "id": None},
        {"step": ["found"], "best": 4},
        {"step": "found", "id": "ogo666", "best": {"average_bits": 4.5}},
    ],
)
def test_another_form_is_refused_with_the_right_one(wrong):
    with pytest.raises(BadInputError, match=r"step s: .*best: \{average_bits: 4.5\}.*got") as caught:
        planned("evaluate", wrong)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInputError, match="no earlier step 'fuond'"):
        planned("evaluate", {"step": "fuond", "id": 3})
    train = {"name": "sp", "command": "train", "config": {**TRAIN, "objective": {"name": "spnet"}}}
    profile = {"checkpoint": "c", "bitmaps": [{"step": "sp", "id": 3}]}
    steps = [train, {"name": "s", "command": "profile", "config": profile}]
    with pytest.raises(BadInputError, match="of an earlier search: sp is a step of train"):
        plan(validate(PipelineConfig, {"steps": steps}, "test"), Path("/runs/p"))


@pytest.mark.parametrize("scale", ["full", "tiny"])
def test_what_a_search_has_yet_to_find_is_priced_like_any_bitmap(scale):
    said = describe_config(COMPRESS, [f"scale={scale}"])
    assert " written, under 1 min" in said.split("gguf: export")[1]
    steps = {step.name: step for step in plan(load_pipeline(COMPRESS, [f"scale={scale}"]), Path("/runs/c"))}
    assert steps["sp"].config.objective.bitmaps[1] == "/runs/c/search/front.json#average_bits=5"
    assert steps["gguf"].config.workers.in_process


@pytest.fixture
def exports(lm_checkpoint, empty_store, tmp_path):
    """Makes a pipeline of one export per format."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")

    def make(bitmap="w8a32kv32"):
        common = {"checkpoint": str(lm_checkpoint), "bitmap": bitmap, "embedding_bits": "none"}
        steps = [
            {"name": form, "command": "export", "config": {**common, "format": form}} for form in ("packed", "gguf")
        ]
        return validate(PipelineConfig, {"steps": steps, "tracking": {"root": str(tmp_path)}}, "test")

    return make


def test_an_export_is_a_step_that_is_skipped_once_finished_and_made_anew_once_anything_changed(
    exports, tmp_path, monkeypatch
):
    place = tmp_path / "all"
    run_pipeline(exports(), place)
    assert read_layout(place / "packed" / "packed")["bitmap"]
    assert read_gguf(place / "gguf" / "model.gguf")
    before = {path: path.stat().st_mtime_ns for path in place.glob("packed/packed/*")}
    # a kill: a step's files are there and its result is not, and something half-made lies beside them
    (place / "gguf" / "result.json").unlink()
    half = place / "packed" / ".packed.new.half"
    half.mkdir()
    again = run_pipeline(exports(), place)
    assert [step["name"] for step in again["steps"]] == ["packed", "gguf"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads((place / "gguf" / "result.json").read_text())["result"]["file_bytes"]
    (place / "packed" / "result.json").unlink()
    run_pipeline(exports(), place)
    assert not half.exists()
    assert {path: path.stat().st_mtime_ns for path in before} != before
    run_pipeline(exports("w4a32kv32"), place)
    assert (place / "packed.1" / "packed").is_dir()
    assert json.loads((place / "packed" / "result.json").read_text())["result"]["bitmap"].startswith("w4")


def test_every_format_has_a_place_of_its_own_that_the_report_explains():
    from orchestrate.runs.layout import FILES

    places = [form.place for form in ExportFormat]
    assert len(set(places)) == len(places)
    assert set(places) <= set(FILES)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"bitmap": "w6a32kv32", "format": "gguf"}, "Q4_0"),
        ({"bitmap": "w8", "embedding_bits": "w8"}, "embedding_bits"),
        ({"bitmap": "w8", "format": "onnx"}, "format"),
        ({"bitmap": "8,8,8,8,8"}, "numbers of entries"),
        ({"bitmap": "w8", "workers": {"in_process": False}}, "workers.in_process"),
    ],
)
def test_a_bad_export_is_refused_before_anything_is_written(config, said, lm_checkpoint, tmp_path, monkeypatch, capsys):
    import sys

    from orchestrate.cli.app import main

    path = tmp_path / "export.yaml"
    path.write_text(yaml.safe_dump({"checkpoint": str(lm_checkpoint), **config}))
    words = ["export", "--config", str(path), "--output", str(tmp_path / "run"), f"tracking.root={tmp_path / 'm'}"]
    monkeypatch.setattr(sys, "argv", ["qalof", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said_then = capsys.readouterr().err
    assert ended.value.code == 2, said_then
    assert said_then.count("\n") == 1
    assert said in said_then
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_whole_way_from_a_pretrained_model_to_a_runtime_goes_on_after_a_kill(tmp_path, empty_store, monkeypatch):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    config = load_pipeline(COMPRESS, ["scale=tiny", f"tracking.root={tmp_path}"])
    with monkeypatch.context() as killed:

        def stop(*given, **named):
            raise KeyboardInterrupt

        killed.setattr("orchestrate.jobs.export.write.save_packed", stop)
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(config, tmp_path / "all")
    result = run_pipeline(config, tmp_path / "all")
    assert all(step["seconds"] is not None for step in result["steps"])
    written = json.loads((tmp_path / "all" / "gguf" / "result.json").read_text())["result"]
    assert written["exact_weights"]
