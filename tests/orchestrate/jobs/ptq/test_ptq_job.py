"""The command ``ptq``: a row a method and bitmap, resumed by method, bad input before any worker starts."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from orchestrate.cli.app import main
from orchestrate.config.loader import load_config, to_plain, validate
from orchestrate.jobs.ptq import job as ptq_job
from orchestrate.jobs.ptq.config import PtqConfig
from qalof.checkpoint.manifest import read_manifest
from qalof.checkpoint.opening import load
from qalof.errors import BadInputError
from qalof.quantization.quantizer import Quantizer
from qalof.quantization.scheme import TensorScheme

CONFIG = Path(__file__).resolve().parents[4] / "configs" / "ptq" / "tiny.yaml"
STATIC = {"quantizer": {"method": "symmetric", "granularity": "tensor"}, "observer": "ema"}
METHODS = [
    {"name": "rtn"},
    {"name": "gptq", "kind": "gptq"},
    {"name": "static", "quantization": {"activation": STATIC}, "bitmaps": ["w4a8"]},
]


def written(folder, **changed):
    data = {
        "command": "ptq", "bitmaps": ["w4a32", "w3a32"], "calibration": {"examples": 8},
        "limit": 12, "workers": {"count": 1, "threads": 1}, "methods": METHODS, **changed,
    }  # fmt: skip
    path = folder / "ptq.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    return path


@pytest.fixture
def call(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["qalof", "ptq", *map(str, words)])
        main()

    return run


def test_the_shipped_config_rounds_with_every_quantizer_of_the_registry():
    config = load_config(PtqConfig, CONFIG)
    rounded = [method.quantization.weight for method in config.methods if method.kind == "rtn"]
    assert {scheme.quantizer.method for scheme in rounded} == set(Quantizer.registry)
    assert any(scheme.quantizer.granularity == "group" for scheme in rounded)
    assert {method.kind for method in config.methods} == {"rtn", "gptq"}
    checked = ptq_job.check(config)
    assert len(checked.bitmaps) == len(config.methods)
    assert all(isinstance(scheme, TensorScheme) for scheme in rounded)


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"methods": [{"name": "a", "quantization": {"weight": {"quantizer": "nf4"}}}]}, ("method a", "4 bits only")),
        ({"methods": [{"name": "a", "kind": "gptqq"}]}, ("gptqq",)),
        ({"methods": [{"name": "a"}, {"name": "a"}]}, ("'a' is used twice",)),
        ({"methods": [{"name": "a/b"}]}, ("a/b",)),
        ({"methods": [{"name": "a", "gptq": {"damping": 2}}]}, ("damping", "got 2")),
        ({"methods": []}, ("methods",)),
        ({"bitmaps": ["w99"]}, ("got 99",)),
        ({"reference": "b"}, ("reference", "'b'")),
        ({"checkpoint": None}, ("neither",)),
        ({"checkpoint": "/no/such/checkpoint"}, ("/no/such/checkpoint",)),
        ({"calibration": {"examples": 0}}, ("calibration.examples",)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input_is_one_line_and_leaves_nothing(call, capsys, span_checkpoint, tmp_path, changed, parts):
    path = written(tmp_path, **{"checkpoint": str(span_checkpoint), **changed})
    with pytest.raises(SystemExit) as ended:
        call("--config", path)
    error = capsys.readouterr().err
    assert (ended.value.code, error.count("\n")) == (2, 1), error
    for part in parts:
        assert part in error
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_and_a_task_are_one_too_many(span_checkpoint):
    data = {"checkpoint": str(span_checkpoint), "task": {"name": "squad-span"}, "methods": METHODS}
    with pytest.raises(BadInputError, match="got both"):
        validate(PtqConfig, data, "here")


@pytest.mark.ray
def test_rows_checkpoints_and_a_second_run_that_does_only_what_is_missing(
    call, capsys, ray_session, span_checkpoint, tmp_path
):
    path, output = written(tmp_path, checkpoint=str(span_checkpoint)), tmp_path / "out"
    call("--config", path, "--output", output, "--json")
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    names = [(row["method"], row["bitmap"]) for row in result["rows"]]
    both = ("w4a32", "w3a32")
    assert names == [*(("rtn", b) for b in both), *(("gptq", b) for b in both), ("static", "w4a8")]
    assert (result["task"], result["reference"]) == ("squad-span", "rtn")
    for row in result["rows"]:
        assert row["examples"] == 12
        assert all(low <= estimate <= high for estimate, low, high in row["metrics"].values())
        assert row["cost"]["stored_weight_bytes"] > 0
        assert bool(row["difference"]) == (row["method"] == "gptq")
    # the checkpoint is one like any other, with its codes and its task
    made = output / "methods" / "gptq" / "checkpoint"
    assert read_manifest(made)["extra"]["task"]["name"] == "squad-span"
    linears = [module for module in load(made).modules() if getattr(module, "fixed_codes", None)]
    assert len(linears) == 8
    assert set(linears[0].fixed_codes) == {3.0, 4.0}
    # as a kill leaves it: no result, one method missing
    before = (output / "methods" / "rtn" / "outcome.json").stat().st_mtime_ns
    (output / "result.json").unlink()
    shutil.rmtree(output / "methods" / "gptq")
    call("--config", path, "--output", output)
    assert "gptq" in capsys.readouterr().out
    again = json.loads((output / "result.json").read_text())["result"]
    assert again["rows"] == result["rows"]
    assert (output / "methods" / "rtn" / "outcome.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_every_method_of_the_shipped_config_can_be_carried_out(random_model, tmp_path):
    small = [f"model.source={random_model}", "limit=2", "calibration.examples=4", "task.settings.max_length=32",
             "task.settings.stride=16"]  # fmt: skip
    config = load_config(PtqConfig, CONFIG, small)
    checked = ptq_job.check(config)
    actor = ptq_job.MethodActor(to_plain(config), checked.opened, threads=1)
    for index, method in enumerate(config.methods):
        outcome = actor.do((index, checked.bitmaps[index], str(tmp_path / method.name)))
        assert len(outcome["evaluations"]) == len(checked.bitmaps[index])
        assert all(each["metrics"]["loss"] > 0 for each in outcome["evaluations"])
        assert bool(outcome["gptq"]) == (method.kind == "gptq")
        assert all(site["error"] <= site["nearest_error"] * (1 + 1e-9) for site in outcome["gptq"])
