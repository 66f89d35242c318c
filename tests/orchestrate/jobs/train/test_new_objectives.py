"""Objectives and execution settings as jobs, two steps each, and the precision range test as a command."""

import json
import sys

import pytest

from orchestrate.cli import app as cli
from orchestrate.config.train import TrainConfig
from orchestrate.jobs.run import execute

RUNS = {
    "rpt": {"objective": {"name": "rpt", "bitmaps": [8, 4], "attack": {"steps": 2}}},
    "contrastive": {"objective": {"name": "contrastive"}},
    "cpt_full": {
        "objective": {"name": "cpt", "lowest": 4, "highest": 8, "cycles": 1, "gradient_bits": 8},
        "adapters": {"widths": []},
        "training": {"full_finetune": True, "activation_checkpointing": True},
    },
}


def parts(source, root):
    settings = {"max_length": 96, "stride": 16, "train_split": "train[:16]", "validation_split": "validation[:4]"}
    return {
        "model": {"source": source},
        "task": {"name": "squad-span", "settings": settings},
        "workers": {"count": 1, "threads": 1},
        "tracking": {"root": str(root)},
    }


def train(name, source, folder, **workers):
    changes = RUNS[name]
    training = {"steps": 2, "batch_size": 4, "checkpoint_every": 2, **changes.get("training", {})}
    data = {**parts(source, folder), "evaluation": {"bitmaps": [8]}, **changes, "training": training}
    data["workers"] = {**data["workers"], **workers}
    result = execute("train", TrainConfig.model_validate(data), folder / name)
    assert result["steps"] == 2
    assert [row["bitmap"] for row in result["rows"]] == ["8"]


@pytest.mark.ray
@pytest.mark.slow
def test_full_fine_tuning_with_rounded_gradients_trains_on_ray_and_its_checkpoint_is_scored(
    ray_session, random_model, tmp_path
):
    train("cpt_full", random_model, tmp_path)


@pytest.mark.parametrize("name", ["rpt", "contrastive"])
def test_each_objective_trains_in_process_and_its_checkpoint_is_scored(name, random_model, tmp_path):
    train(name, random_model, tmp_path, in_process=True)


@pytest.mark.ray
@pytest.mark.slow
def test_the_range_test_recommends_bounds_and_a_finished_one_is_taken_as_it_stands(
    ray_session, random_model, tmp_path, monkeypatch, capsys
):
    config = {
        **parts(random_model, tmp_path),
        "command": "range-test",
        "training": {"batch_size": 4},
        "lowest": 4,
        "highest": 5,
        "iterations": 2,
        "window": 1,
    }
    path = tmp_path / "range.yaml"
    path.write_text(json.dumps(config))
    words = ["qalof", "range-test", "--config", str(path), "--output", str(tmp_path / "run"), "--json"]
    monkeypatch.setattr(sys, "argv", words)
    found = []
    for _ in range(2):
        cli.main()
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert found[0] == found[1]
    assert [row["bits"] for row in found[0]["widths"]] == [4, 5]
    assert {"lowest", "highest"} <= found[0].keys()


def test_bounds_that_cannot_be_are_one_line_and_exit_code_two(random_model, tmp_path, monkeypatch, capsys):
    path = tmp_path / "range.yaml"
    path.write_text(json.dumps({**parts(random_model, tmp_path), "lowest": 8, "highest": 4}))
    monkeypatch.setattr(sys, "argv", ["qalof", "range-test", "--config", str(path), "--output", str(tmp_path / "r")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "lowest must not exceed highest" in capsys.readouterr().err
