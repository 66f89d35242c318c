"""Sweeps: the same trials on any number of workers and after a kill, and the weak ones stopped where asked for."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from ray.tune.schedulers import TrialScheduler
from safetensors.torch import load_file

from orchestrate.cli.app import main
from orchestrate.config.loader import load_config, validate
from orchestrate.jobs.sweep.config import SweepConfig
from orchestrate.jobs.sweep.on_tune import Asha
from orchestrate.jobs.sweep.plan import SweepPlan, trial_config
from orchestrate.jobs.sweep.trial import TrialRun
from qalof.errors import BadInputError
from qalof.files import read_json, write_text

CONFIG = Path(__file__).resolve().parents[4] / "configs" / "sweep" / "tiny.yaml"


def sweep(source: str, **changes: object) -> dict[str, object]:
    data = {"max_length": 96, "stride": 16, "train_split": "train[:24]", "validation_split": "validation[:6]"}
    base = {
        "model": {"source": source},
        "task": {"name": "squad-span", "settings": data},
        "adapters": {"rank": 2},
        "objective": {"name": "cascade", "bitmaps": [8, 4]},
        "training": {"steps": 6, "batch_size": 4, "learning_rate": 0.01, "checkpoint_every": 2, "seed": 3},
    }
    return {
        "command": "sweep",
        "train": base,
        "space": {"adapters.rank": [2, 4], "objective.beta": [0.0, 1.0]},
        "metric": "min:train_loss",
        "workers": {"count": 2, "threads": 1},
        **changes,
    }


def typed(source: str, **changes: object) -> SweepConfig:
    return validate(SweepConfig, sweep(source, **changes), "sweep")


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(data: dict[str, object], *words: str) -> dict[str, object]:
        write_text(tmp_path / "sweep.yaml", yaml.safe_dump(data))
        monkeypatch.setattr(sys, "argv", ["qalof", "sweep", "--config", "sweep.yaml", "--json", *words])
        main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def refused(call, capsys, data: dict[str, object], *parts: str) -> None:
    with pytest.raises(SystemExit) as ended:
        call(data)
    error = capsys.readouterr().err
    assert ended.value.code == 2, error
    assert error.count("\n") == 1
    for part in parts:
        assert part in error


def test_what_a_sweep_cannot_use_is_found_before_any_worker_starts(call, capsys, random_model):
    for changes, parts in (
        ({"space": {"adapters.rnak": [2]}}, ("adapters.rnak", "rank")),
        ({"space": {"adapters.rank": [2, 0]}}, ("rank",)),
        ({"space": {"adapters.rank.deep": [2]}}, ("rank", "below")),
        ({"space": {"objective.bitmaps": [[8, 4], [8, 17]]}}, ("17",)),
        ({"space": {"adapters.rank": {"low": 2, "high": 4}}}, ("grid", "range")),
        ({"space": {"adapters.rank": []}}, ("empty",)),
        ({"space": {"adapters.rank": {"low": 4, "high": 2}}, "strategy": "random", "samples": 2}, ("below high",)),
        ({"strategy": "random"}, ("samples",)),
        ({"metric": "max:f2"}, ("f2", "f1")),
        ({"metric": "min:weight_bytes"}, ("weight_bytes", "cost")),
    ):
        refused(call, capsys, sweep(random_model, **changes), *parts)
    with_best = sweep(random_model)
    with_best["train"]["keep_best"] = {}
    refused(call, capsys, with_best, "keep_best", "metric")
    assert not Path("runs").exists()


@pytest.mark.parametrize("strategy", ["random", "tpe"])
def test_points_depend_on_seed_and_scores_and_not_on_what_ends_first(strategy):
    space = {"training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "adapters.rank": {"low": 1, "high": 9}}
    space["objective.bitmaps"] = [[8, 4], [8, 6, 4]]

    def points(order: int, seed: int) -> list[dict[str, object]]:
        plan = SweepPlan(typed("tiny", space=space, strategy=strategy, samples=11, generation=4, seed=seed))
        while waiting := plan.waiting():
            for number in waiting[::order]:
                plan.tell(number, None if number == 2 else -plan.points[number]["training.learning_rate"])
        return plan.points

    drawn = points(1, seed=0)
    assert drawn == points(-1, seed=0)
    assert drawn != points(1, seed=1)
    assert len(drawn) == 11
    assert all(1e-4 <= point["training.learning_rate"] <= 1e-1 for point in drawn)
    assert {type(point["adapters.rank"]) for point in drawn} == {int}
    assert all(point["objective.bitmaps"] in space["objective.bitmaps"] for point in drawn)


def test_a_grid_holds_every_combination_and_a_trial_is_the_base_but_for_its_point():
    config = load_config(SweepConfig, CONFIG)
    points = SweepPlan(config).points
    assert len(points) == 6
    made = trial_config(config, points[-1])
    assert (made.adapters.rank, made.objective.beta, made.adapters.alpha) == (16, 10.0, 16)
    assert made.workers.count == 1
    with pytest.raises(BadInputError, match="train with adapters.rnak=3: unknown key"):
        trial_config(config, {"adapters.rnak": 3})


def test_a_trial_that_was_cut_off_says_its_scores_again_and_ends_with_the_same_weights(random_model, tmp_path):
    config = trial_config(typed(random_model, metric="max:f1", bitmaps=[8, 4], limit=4), {"adapters.rank": 4})
    whole = TrialRun(tmp_path / "whole", config, report_every=2)
    said = [whole.advance() for _ in range(3)]
    assert [(each.step, each.state) for each in said] == [(2, "running"), (4, "running"), (6, "finished")]
    first = TrialRun(tmp_path / "cut", config, report_every=2)
    first.advance()
    again = TrialRun(tmp_path / "cut", config, report_every=2)
    assert [again.advance() for _ in range(3)] == said
    ours, theirs = (
        {p.name + n: t for p in sorted((tmp_path / run).rglob("*.safetensors")) for n, t in load_file(p).items()}
        for run in ("cut", "whole")
    )
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=0, rtol=0)
    assert len((tmp_path / "cut" / "losses.jsonl").read_text().splitlines()) == 6


def test_a_trial_whose_loss_is_not_finite_ends_and_says_so(random_model, tmp_path):
    config = trial_config(typed(random_model), {"training.learning_rate": 1e30})
    trial = TrialRun(tmp_path / "trial", config, report_every=2)
    said = trial.advance()
    assert (said.state, said.score) == ("diverged", None)
    assert said.step < 2
    assert TrialRun(tmp_path / "trial", config, report_every=2).advance() == said


@pytest.mark.ray
def test_a_sweep_gives_one_table_on_any_number_of_workers_and_after_a_kill(ray_session, call, random_model, tmp_path):
    result = call(sweep(random_model), "--output", "run")
    values = [row["value"] for row in result["trials"]]
    assert values == sorted(values)
    assert result["best"] == result["trials"][0]
    assert sorted(row["trial"] for row in result["trials"]) == [0, 1, 2, 3]
    assert {(row["state"], row["step"]) for row in result["trials"]} == {("finished", 6)}
    assert len(children(tmp_path)) == 4
    # as a kill leaves it: no result, one trial not begun, and one without its end
    before = {path: path.stat().st_mtime_ns for path in Path("run/trials").glob("00[01]/losses.jsonl")}
    assert len(before) == 2
    Path("run/result.json").unlink()
    shutil.rmtree("run/trials/003")
    Path("run/trials/002/trial.json").unlink()
    again = call(sweep(random_model, workers={"count": 1, "threads": 1}), "--output", "run")
    assert again["trials"] == result["trials"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert read_json(Path("run/trials/003/trial.json"), "trial")["params"] == {
        "adapters.rank": 4,
        "objective.beta": 1.0,
    }


@pytest.mark.ray
def test_asha_stops_a_weak_trial_early_and_a_rerun_leaves_it_stopped(ray_session, call, random_model):
    stops_a_weak_trial(call, random_model, {"count": 1, "threads": 1})


def test_asha_stops_in_process_what_it_stops_on_ray(call, random_model):
    stops_a_weak_trial(call, random_model, {"count": 1, "threads": 1, "in_process": True})


def test_asha_counts_the_score_of_a_trial_once_though_it_is_begun_again_after_a_loss():
    asha = Asha("step", "score", "max", max_t=8, grace_period=2, reduction_factor=2)

    def report(trial_id: str, folder: str, score: float) -> str:
        trial = SimpleNamespace(trial_id=trial_id, config={"trial": json.dumps({"folder": folder})})
        asha.on_trial_add(None, trial)
        return asha.on_trial_result(None, trial, {"step": 2, "score": score})

    assert report("first", "000", 1.0) == TrialScheduler.CONTINUE
    for again in ("again", "and again"):
        assert report(again, "000", 1.0) == TrialScheduler.CONTINUE
    assert report("second", "001", 3.0) == TrialScheduler.CONTINUE
    # of the scores 1 and 3, half are below 2
    assert report("third", "002", 1.9) == TrialScheduler.STOP


def stops_a_weak_trial(call, random_model, workers: dict[str, object]) -> None:
    space = {"training.learning_rate": [0.01, 1e-9, 1e30]}
    changes = {"scheduler": "asha", "asha": {"grace_steps": 2, "reduction_factor": 2}, "space": space}
    data = sweep(random_model, workers=workers, **changes)
    result = call(data, "--output", "run")
    states = {row["trial"]: (row["state"], row["step"]) for row in result["trials"]}
    assert states[0] == ("finished", 6)
    assert states[1] == ("stopped", 2)
    assert states[2][0] == "diverged"
    assert [row["trial"] for row in result["trials"]] == [0, 1, 2]
    Path("run/result.json").unlink()
    assert call(data, "--output", "run")["trials"] == result["trials"]


def children(root: Path) -> list[object]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'runs' / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("qalof").experiment_id])
    return [run for run in found if "mlflow.parentRunId" in run.data.tags]
