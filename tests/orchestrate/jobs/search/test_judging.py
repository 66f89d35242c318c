"""A search job judges its finalists on examples that the search has not seen, or refuses before any work."""

import io
import json
import shutil

import pytest

import qalof
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.run import execute


@pytest.fixture
def run(lm_checkpoint, empty_store, tmp_path):
    shutil.copy(empty_store, tmp_path / "mlflow.db")

    def command(**settings):
        given = {"checkpoint": str(lm_checkpoint), "limit": 3, "tracking": {"root": str(tmp_path)}}
        given["workers"] = {"count": 1, "in_process": True}
        given["strategy_options"] = {"budgets": [5.0, 6.0], "examples": 2}
        config = JOBS["search"].config.model_validate({**given, **settings})
        return execute("search", config, tmp_path / "run")

    return command


def test_the_finalists_are_scored_on_the_examples_after_the_searched_ones(run, lm_checkpoint, tmp_path, capsys):
    result = run(judge={"limit": 4}, resolve=0.9)
    # two examples show so large a difference, and no more than the limit are scored
    searched = [json.loads(line) for line in (tmp_path / "run" / "search.jsonl").read_text().splitlines()]
    assert {line["limit"] for line in searched if "limit" in line} == {result["resolution"]["examples"]} == {2}
    judgement = result["judgement"]
    assert result["strategy"] == "guided"
    assert (judgement["examples"], judgement["skip"]) == (4, 3)
    assert judgement["answer"].startswith(("No mixed bitmap is shown to beat", "A mixed bitmap beats"))
    assert [row["average_bits"] for row in judgement["rows"]] == [5.0, 6.0]
    model, task = qalof.load(lm_checkpoint), qalof.task_of(lm_checkpoint)
    row = judgement["rows"][0]
    assert row["uniform"] == "4"
    with model.at("4"):
        by_hand = task.evaluate(model, limit=4, skip=3)["loss"]
    assert row["uniform_loss"] == pytest.approx(by_hand, rel=1e-6)
    assert row["gain"] == pytest.approx(row["uniform_loss"] - row["loss"])
    assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert row["is_shown"] is (row["gain_low"] > 0)
    lines = [json.loads(line) for line in (tmp_path / "run" / "judge.jsonl").read_text().splitlines()]
    assert {line["evaluation"]["examples"] for line in lines} == {4}
    _shown(tmp_path / "run", result)


def _shown(folder, result):
    """Terminal and report say what the result does."""
    from rich.console import Console

    from orchestrate.report import write_report

    console = Console(width=80, record=True, file=io.StringIO())
    for block in JOBS["search"].terminal(result, folder):
        console.print(block)
    said = " ".join(console.export_text().split())
    answer = result["judgement"]["answer"]
    assert " ".join(answer.split()) in said
    assert " ".join(result["resolution"]["text"].split()) in said
    assert "Finalists on 4 examples" in said
    page = write_report(folder).read_text()
    assert "that the search has not seen" in page
    assert "score a chosen bitmap on other examples" not in page


def test_without_budgets_a_mixed_bitmap_is_compared_with_the_uniform_one_of_equal_cost(run):
    result = run(judge={"limit": 4}, strategy="random", strategy_options={}, max_evaluations=6)
    rows = result["judgement"]["rows"]
    assert rows
    assert all("weight_bytes" in row for row in rows)


REFUSED = {
    "all of the split is searched": ({"judge": {}, "limit": None}, "limit is null"),
    "no example is left": ({"judge": {}, "limit": 10**6}, "takes them all"),
    "the searched split": ({"judge": {"split": "validation"}}, "another split than"),
    "a part of the searched split": ({"judge": {"split": "validation[:9]"}}, "another split than"),
    "the training split": ({"judge": {"split": "train"}}, "another split than"),
    "a split that is not there": ({"judge": {"split": "nowhere"}}, "nowhere"),
    "no examples": ({"judge": {"limit": 0}}, "limit"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_examples_that_the_search_sees_are_refused_before_any_work(run, tmp_path, case):
    settings, said = REFUSED[case]
    with pytest.raises(ValueError, match=said):
        run(**settings)
    assert not (tmp_path / "run" / "search.jsonl").exists()
