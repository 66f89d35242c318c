"""Validation curves: scored in the middle of training, on record once per step, and without a trace in the weights."""

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import mlflow
import pytest

from orchestrate.cli.app import main
from orchestrate.config.loader import validate
from orchestrate.config.train import TrainConfig
from orchestrate.jobs.train import in_process
from orchestrate.jobs.train.job import scored_in_the_middle
from orchestrate.jobs.train.validation import (
    Curves,
    Scores,
    Validation,
    keep_validation,
    kept_validation,
    read_validation,
    record_validation,
)
from orchestrate.jobs.train.validation_plot import curves_in, validation_blocks
from orchestrate.report import write_report
from orchestrate.runs.directory import read_result
from qalof.bitmap import Bitmap
from qalof.checkpoint.opening import load
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation

HERE = "workers={count: 1, in_process: true, threads: 1}"
CONFIG = [
    'task={name: squad-span, settings: {max_length: 96, stride: 16, train_split: "train[:12]"}}',
    "objective={name: cascade, bitmaps: [8, 4]}", "adapters={rank: 2, dropout: 0.1}", HERE, "tracking.root=runs",
    "switch.quantization.activation={quantizer: {method: symmetric, granularity: tensor}, observer: ema}",
    "training={steps: 5, batch_size: 4, checkpoint_every: 3, learning_rate: 0.01}",
    "evaluation={limit: 3, bitmaps: [8, 4]}",
]  # fmt: skip
CURVES = "validation={evaluate_every: 2, limit: 3}"


@pytest.fixture(scope="module")
def place(tmp_path_factory, empty_store) -> Path:
    folder = tmp_path_factory.mktemp("validation")
    (folder / "runs").mkdir()
    shutil.copyfile(empty_store, folder / "runs" / "mlflow.db")
    return folder


@pytest.fixture
def train(monkeypatch, capsys, place, random_model):
    monkeypatch.chdir(place)

    def run(name: str, *words: str) -> Path:
        given = ["qalof", "train", *CONFIG, f"model.source={random_model}", *words, "--output", str(place / name)]
        monkeypatch.setattr(sys, "argv", given)
        main()
        capsys.readouterr()
        return place / name

    return run


def history(folder: Path, name: str) -> list[tuple[int, float]]:
    run = json.loads((folder / "tracking.json").read_text())
    found = mlflow.MlflowClient(run["uri"]).get_metric_history(run["run"], name)
    return sorted((metric.step, metric.value) for metric in found)


@pytest.mark.slow
def test_curves_are_scored_on_time_change_no_weight_and_survive_a_kill_without_a_second_line(train, monkeypatch):
    plain, whole = train("plain"), train("whole", CURVES)
    for (name, ours), (_, theirs) in zip(
        load(whole / "checkpoint").state_dict().items(), load(plain / "checkpoint").state_dict().items(), strict=True
    ):
        assert ours.equal(theirs), name
    found = read_validation(whole / "validation.jsonl")
    assert [(each.step, each.examples, list(each.scores)) for each in found] == [
        (step, 3, ["8", "4"]) for step in (2, 4, 5)
    ]
    assert not (plain / "validation.jsonl").exists()
    rows = read_result(whole / "result.json")["rows"]
    assert [found[-1].scores[row["bitmap"]]["f1"] for row in rows] == [row["metrics"]["f1"][0] for row in rows]

    saved, calls = in_process.save_checkpoint, []

    def killed(*given):
        calls.append(given)
        if len(calls) == 2:
            raise RuntimeError("killed")
        return saved(*given)

    monkeypatch.setattr(in_process, "save_checkpoint", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train("cut", CURVES)
    monkeypatch.setattr(in_process, "save_checkpoint", saved)
    cut = train("cut", CURVES)
    assert (cut / "validation.jsonl").read_bytes() == (whole / "validation.jsonl").read_bytes()
    run = json.loads((whole / "tracking.json").read_text())
    client = mlflow.MlflowClient(run["uri"])
    assert {"checkpoint", "losses.jsonl", "validation.jsonl", "validation.png"} <= {
        file.path for file in client.list_artifacts(run["run"])
    }
    assert "checkpoint/manifest.json" in {file.path for file in client.list_artifacts(run["run"], "checkpoint")}
    for folder in (whole, cut):
        assert history(folder, "validation.f1.4") == [(each.step, each.scores["4"]["f1"]) for each in found]
    page = write_report(whole).read_text()
    assert "on the first 3 validation examples" in page
    assert "F1 at 8 bits: " in page
    assert (whole / "validation.png").read_bytes().startswith(b"\x89PNG")


def scored(*steps: int) -> list[Validation]:
    return [Validation(step, 7, {"8": {"f1": step / 3}, "4": {"f1": None}}) for step in steps]


def test_a_record_has_each_step_once_in_order_whatever_came_twice_late_or_torn(tmp_path):
    path = tmp_path / "validation.jsonl"
    assert record_validation(path, scored(2, 4)) == scored(2, 4)
    with path.open("a") as file:
        file.write('{"step": 6, "exam')
    assert record_validation(path, scored(2, 4, 8)) == scored(8)
    assert record_validation(path, scored(6)) == scored(6), "one that was lost on its way"
    other = [Validation(4, 7, {"8": {"f1": 0.5}})]
    assert record_validation(path, other) == other, "trained again with other masks of dropout"
    assert read_validation(path) == (*scored(2), *other, *scored(6, 8))
    assert len(path.read_text().splitlines()) == 4
    keep_validation(tmp_path / "storage", scored(2, 4), 5)
    keep_validation(tmp_path / "storage", scored(6, 8), 10)
    keep_validation(tmp_path / "storage", [], 12)
    assert kept_validation(tmp_path / "storage", 5) == scored(2, 4)
    path.write_text('{"step": 1, "examples": 2}\n')
    with pytest.raises(BadInputError, match=r"record of validation .*validation\.jsonl must have the form"):
        read_validation(path)


class World:
    """One of several workers, whose sums are added up by hand."""

    def __init__(self, rank: int, size: int, pool: list) -> None:
        self.rank, self.size, self.pool = rank, size, pool

    def sum_in_place(self, tensor) -> None:
        self.pool.append(tensor)


class Model:
    device = "cpu"

    def eval(self) -> None: ...

    def set_bitmap(self, bitmap: Bitmap) -> None:
        self.bitmap = bitmap


class Task:
    metrics = ("exact_match", "f1", "kl")

    def __init__(self) -> None:
        self.calls = 0

    def evaluate(self, model: Model, limit: int) -> Evaluation:
        self.calls += 1
        bits = int(str(model.bitmap))
        return Evaluation({"exact_match": bits / 3, "f1": float("nan") if bits == 2 else bits / 7}, limit)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_scores_do_not_depend_on_the_number_of_workers_and_are_made_once(size):
    bitmaps = tuple(Bitmap.uniform(["a", "b"], bits) for bits in (8, 4, 2))
    pool, task = [], Task()
    workers = [Scores(Model(), task, World(rank, size, pool)) for rank in range(size)]
    validations = [Curves(2, bitmaps, 5).measure(4, worker) for worker in workers]
    total = sum(pool) if pool else None
    if size == 1:
        expected = {str(b): {"exact_match": int(str(b)) / 3, "f1": int(str(b)) / 7} for b in bitmaps}
        expected["2"]["f1"] = None
        assert validations[0] == Validation(4, 5, expected)
        workers[0].at(bitmaps[:2], 5)
        assert task.calls == 3, "who keeps the best takes the scores of the curves"
    else:
        assert total[:, 0].tolist() == [bits / 3 for bits in (8, 4, 2)]
        assert task.calls == 3


def test_a_step_that_is_no_whole_number_and_a_bitmap_that_fits_nothing_are_refused(say, random_model, tmp_path):
    words = [*CONFIG, f"model.source={random_model}", "--output", tmp_path / "run"]
    code, _, error = say("train", *words, "validation.evaluate_every=-1")
    assert code == 2
    assert "validation.evaluate_every must be a whole number of at least 0 (0 scores after training alone)" in error
    code, _, error = say("train", *words, "validation={evaluate_every: 2, bitmaps: [17]}")
    assert (code, "17" in error) == (2, True)


def test_the_estimate_counts_what_is_scored_in_the_middle_once():
    data = {"task": {"name": "squad-span", "settings": {"validation_split": "validation[:40]"}}}
    data |= {"objective": {"name": "spnet", "bitmaps": [8, 4]}, "training": {"steps": 10, "checkpoint_every": 5}}

    def count(**more) -> int:
        return scored_in_the_middle(validate(TrainConfig, {**data, **more}, "the config"))

    assert count() == 0
    assert count(validation={"evaluate_every": 4, "limit": 3}) == 3 * 2 * 3
    assert count(validation={"evaluate_every": 4, "bitmaps": [8]}) == 3 * 1 * 40
    assert count(keep_best={"limit": 3}) == 2 * 2 * 3
    assert count(keep_best={"metric": "min:train_loss"}) == 0
    assert count(keep_best={"limit": 3}, validation={"evaluate_every": 2, "limit": 3}) == 6 * 2 * 3, "step 10 is both"


def test_curves_leave_out_what_is_not_finite_and_a_run_under_way_says_so():
    assert asdict(curves_in(scored(2, 4), "f1")[0])["steps"] == (2, 4)
    assert [curve.bitmap for curve in curves_in(scored(2, 4), "f1")] == ["8"]
    (plot,) = validation_blocks(scored(2, 4), "p", False)
    assert plot.caption.endswith("on the first 7 validation examples; so far, up to step 4")
    assert "F1 at 8 bits: 0.667 at step 2, best 1.33, 1.33 at step 4" in str(plot.svg)
    assert validation_blocks((), "p", True) == []
