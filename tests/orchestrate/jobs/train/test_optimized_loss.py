"""The loss that is optimized, distillation included, is in every record of a training run."""

import json
import math
import sys
from pathlib import Path
from statistics import fmean

import mlflow
import pytest

from orchestrate.cli.app import main
from orchestrate.config.train import TrainConfig
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.table_config import Place
from orchestrate.jobs.train.curves import OPTIMIZED, read_losses
from orchestrate.jobs.train.loss_plot import loss_blocks
from orchestrate.pipeline.tables.cells import read_cell
from orchestrate.runs.directory import read_result
from qalof.errors import NonFiniteLossError

STEPS = 10
CONFIG = [
    'task={name: squad-span, settings: {max_length: 96, stride: 16, train_split: "train[:12]"}}',
    f"training={{steps: {STEPS}, batch_size: 4, checkpoint_every: 5, learning_rate: 0.01}}", "adapters.rank=2",
    "evaluation={bitmaps: [8], limit: 2}", "workers.count=1", "workers.in_process=true", "tracking.root=runs",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("optimized")


@pytest.fixture
def train(monkeypatch, capsys, place, random_model):
    monkeypatch.chdir(place)

    def run(name: str, *words: str) -> Path:
        given = ["qalof", "train", *CONFIG, f"model.source={random_model}", *words, "--output", str(place / name)]
        monkeypatch.setattr(sys, "argv", [*given, "--json"])
        main()
        capsys.readouterr()
        return place / name

    return run


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]


def test_a_distilled_training_records_what_it_optimizes_beside_the_cross_entropies(train, place):
    folder = train("cascade", "objective={name: cascade, bitmaps: [8, 4], beta: 10.0}")
    found = lines(folder)
    assert len(found) == STEPS
    assert all(entry["objective"] > fmean(entry["losses"].values()) for entry in found), "distances are positive"
    end = read_result(folder / "result.json")["training_loss"]
    assert end == {
        "cross_entropy": fmean(found[-1]["losses"].values()), "objective": found[-1]["objective"], "over": 1,
    }  # fmt: skip
    config = TrainConfig.model_validate({"task": {"name": "squad-span"}, "objective": {"name": "spnet"},
                                         "training": {"steps": STEPS}})  # fmt: skip
    step = PlannedStep("t", "train", config, folder)
    assert read_cell(Place("t", "training", "objective"), step).value == end["objective"]
    assert read_cell(Place("t", "training", "loss"), step).value == end["cross_entropy"]
    curves = read_losses(folder)
    assert [curve.bitmap for curve in curves] == [OPTIMIZED, "8", "4"]
    assert curves[0].values == tuple(entry["objective"] for entry in found)
    (plot,) = loss_blocks(curves, "p", True)
    assert "distances to teachers" in plot.caption
    assert OPTIMIZED in str(plot.svg)
    run = json.loads((folder / "tracking.json").read_text())
    history = mlflow.MlflowClient(run["uri"]).get_metric_history(run["run"], "train.objective")
    assert [metric.value for metric in sorted(history, key=lambda metric: metric.step)] == pytest.approx(
        [entry["objective"] for entry in found]
    )


def test_without_distillation_the_optimized_loss_is_the_mean_of_the_cross_entropies(train):
    folder = train("spnet", "objective={name: spnet, bitmaps: [8, 4]}")
    for entry in lines(folder):
        assert entry["objective"] == pytest.approx(fmean(entry["losses"].values()), rel=1e-5)
    assert [curve.bitmap for curve in read_losses(folder)] == ["8", "4"], "no second curve for the same numbers"


def test_a_distance_that_is_not_finite_ends_training_before_a_weight_is_touched(monkeypatch, capsys, train, place):
    from qalof.training.objectives import switchable

    monkeypatch.setattr(switchable, "distance", lambda student, teacher, how: student.sum() * math.nan)
    with pytest.raises((SystemExit, NonFiniteLossError)):
        train("diverged", "objective={name: cascade, bitmaps: [8, 4]}")
    assert "nan at step 0 with bitmap 8 and 4" in capsys.readouterr().err
