"""On a language model, whose metric is better when lower, all commands, files and reports agree in sign."""

import json
import math
import re
import sys
from pathlib import Path

import pytest

from orchestrate.cli.app import main
from orchestrate.cluster.evaluation_pool import EvaluationPool
from orchestrate.config.sections import CheckpointConfig, WorkersConfig
from orchestrate.document.figures import ranking
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.table_config import Place
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.search.config import SearchConfig
from orchestrate.jobs.search.on_tune import CheckpointEvaluator
from orchestrate.jobs.sensitivity.config import SensitivityConfig
from orchestrate.pipeline.tables.cells import read_cell
from orchestrate.runs.directory import fingerprint_of, read_result
from qalof.bitmap import Bitmap
from qalof.checkpoint.opening import load, task_of
from qalof.evaluation.result import Evaluation
from qalof.metrics import metric_of
from search import BitmapSpace, LocalEvaluator, SearchResult, run

HERE = ["workers.count=1", "workers.in_process=true", "--json"]
METRICS = ("loss", "accuracy", "perplexity")


@pytest.fixture(scope="module")
def checkpoint(lm_checkpoint: Path) -> Path:
    return lm_checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("signs")


@pytest.fixture
def call(monkeypatch, capsys, place, checkpoint):
    monkeypatch.chdir(place)

    def run(command: str, output: str, *words: str) -> dict:
        given = ["qalof", command, "--checkpoint", str(checkpoint), "--output", output, "limit=3", *words, *HERE]
        monkeypatch.setattr(sys, "argv", given)
        main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def measured(folder: Path, metric: str) -> tuple[float, dict[str, float]]:
    """The metric at the reference, and with each unit lowered, from the record of evaluations alone."""
    reference, lowered = math.nan, {}
    for line in (folder / "evaluations.jsonl").read_text().splitlines():
        entry = json.loads(line)
        changed = [site for site, bits in Bitmap.from_json(entry["bitmap"]).items() if bits.weight != 8]
        value = Evaluation.from_json(entry["evaluation"]).metrics[metric]
        if changed:
            lowered[changed[0].rpartition(".")[0].rpartition(".")[0]] = value
        else:
            reference = value
    return reference, lowered


@pytest.mark.parametrize("metric", METRICS)
def test_a_result_a_table_and_a_report_of_one_sensitivity_run_agree_in_sign(call, place, checkpoint, metric):
    result = call("sensitivity", metric, f"metric={metric}", "unit=block")
    folder = place / metric
    reference, lowered = measured(folder, metric)
    worse = {unit: metric_of(metric).worsening(reference, value) for unit, value in lowered.items()}
    assert any(worse.values()) or metric == "accuracy"  # next tokens that a random model never guesses
    ranked = {row["unit"]: row[f"{metric}_drop"] for row in result["ranking"]}
    assert ranked == pytest.approx(worse)
    assert list(ranked.values()) == sorted(ranked.values()), "the most tolerant first"
    config = SensitivityConfig(checkpoint=str(checkpoint), unit="block", metric=metric)
    step = PlannedStep("s", "sensitivity", config, folder)
    for unit, drop in worse.items():
        assert read_cell(Place("s", unit, f"{metric}_drop"), step).value == pytest.approx(drop)
    first, second = worse
    against = read_cell(Place("s", f"{first} minus {second}", f"{metric}_drop"), step)
    assert against.value == pytest.approx(worse[first] - worse[second])
    found = JOBS["sensitivity"].findings(folder, read_result(folder / "result.json"))
    assert {one.unit: one.drop.estimate for one in found.drops} == pytest.approx(worse)
    words = "Rise of" if metric_of(metric).direction == "min" else "Loss of"
    svg = ranking(["u"], [found.drops[0].drop], ["block"], metric, "t", "n")
    assert f"{words} {metric_of(metric).label}" in svg


def test_without_a_metric_a_language_model_is_ranked_by_what_its_loss_rises(call, place):
    result = call("sensitivity", "default", "unit=block")
    assert result["metric"] == "loss"
    reference, lowered = measured(place / "default", "loss")
    assert {row["unit"]: row["loss_drop"] for row in result["ranking"]} == pytest.approx(
        {unit: value - reference for unit, value in lowered.items()}
    )


SMALL = ["space={weight: [4, 8], group: block}", "max_evaluations=4"]


@pytest.mark.parametrize("strategy", ["random", "tpe", "nsga2", "evolutionary", "guided", "greedy", "one_at_a_time"])
def test_a_search_of_a_language_model_looks_for_the_lowest_loss(call, place, strategy):
    ends = strategy in ("greedy", "one_at_a_time")
    call("search", strategy, *SMALL[:1], f"strategy={strategy}", "max_evaluations=" + ("null" if ends else "4"))
    found = SearchResult.load(place / strategy)
    assert [str(objective) for objective in found.objectives] == ["min:loss", "min:weight_bytes"]
    losses = [point.metrics["loss"].estimate for point in found.points]
    assert found.best().metrics["loss"].estimate == min(losses)
    assert min(losses) in [point.metrics["loss"].estimate for point in found.front_points]
    for row in found.trace:
        if strategy == "greedy":
            start = max(found.points, key=lambda point: point.cost.average_bits).metrics["loss"].estimate
            assert row["drop"] == pytest.approx(row["loss"] - start)


def test_a_search_in_python_takes_the_tasks_own_metric_in_its_own_direction(checkpoint):
    model, work = load(checkpoint), task_of(checkpoint)
    space = BitmapSpace.of(model, weight=(4, 8), group="block")
    evaluator = LocalEvaluator(model, work, limit=2)
    found = run(space, evaluator, max_evaluations=3, strategy="random")
    assert [str(objective) for objective in found.objectives] == ["min:loss", "min:weight_bytes"]
    assert CheckpointEvaluator(checkpoint).primary_metric == work.primary_metric == "loss"
    assert EvaluationPool(checkpoint, space.sites, 2, WorkersConfig(count=1, in_process=True)).primary_metric == "loss"


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("search", ["objectives=[max:loss]"], "write loss or min:loss, or worst:loss"),
        ("search", ["objectives=[loss, max:weight_bytes]"], "write weight_bytes or min:weight_bytes"),
        ("search", ["objectives=[min:accuracy]"], "write accuracy or max:accuracy"),
        ("sensitivity", ["metric=worst:loss"], "metric must be one of loss, .*by its name: got worst:loss"),
        ("sensitivity", ["metric=weight_bytes"], "metric must be one of loss, .*got min:weight_bytes"),
    ],
)
def test_a_direction_that_contradicts_the_metric_is_refused_in_one_line(call, capsys, command, words, said):
    with pytest.raises(SystemExit) as ended:
        call(command, "refused", *words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(said, error), error


@pytest.mark.parametrize("kind", [SensitivityConfig, SearchConfig])
def test_a_run_from_before_the_signs_were_the_metrics_own_is_not_taken_as_it_is(kind, monkeypatch):
    config: CheckpointConfig = kind(checkpoint="c")
    now = fingerprint_of(config.command, config.model_dump())
    monkeypatch.setattr("orchestrate.runs.directory.MEANINGS", {})
    assert fingerprint_of(config.command, config.model_dump()) != now
