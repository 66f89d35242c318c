"""``qalof attack`` text by text: an attacker who knows, kept meaning, resumes, and texts that cannot be attacked."""

import json
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from orchestrate.document.blocks import Table
from orchestrate.jobs.attack import findings, on_pool
from orchestrate.jobs.attack.config import AttackConfig
from orchestrate.jobs.attack.sentences import attack_statements
from orchestrate.jobs.attack.view import attack_blocks
from orchestrate.jobs.run import execute
from qalof.attacks.methods.textfooler import TextFooler
from qalof.attacks.robustness.report import RobustnessResult
from qalof.errors import BadInputError
from qalof.files import read_whole_lines

WORDS = {"name": "textfooler", "settings": {"least_cosine": 0.5, "least_similarity": 0.5, "max_length": 48}}


def config(checkpoint: Any, root: Any, **changes: Any) -> AttackConfig:
    return AttackConfig.model_validate(
        {
            "checkpoint": str(checkpoint), "limit": 4, "bitmaps": [8, 4], "method": WORDS,
            "random_precision": {"granularity": "request", "draws": 3}, "adaptive": {},
            "workers": {"count": 1, "threads": 1, "in_process": True}, "tracking": {"root": str(root)},
        } | changes
    )  # fmt: skip


@pytest.fixture(scope="module")
def attacked(review_checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("attacked")
    return folder / "run", execute("attack", config(review_checkpoint, folder), folder / "run"), folder


def rows(folder: Any, name: str) -> list[Any]:
    return [json.loads(line) for line in read_whole_lines(folder / name) if line]


def test_one_table_has_four_attackers_their_control_and_their_price(attacked: Any) -> None:
    found = RobustnessResult.from_json(attacked[1]["robustness"])
    (report,) = found.random_precision
    assert [each.attacker for each in report.attackers] == ["non_adaptive", "worst_source", "adaptive", "retrying"]
    assert report.attackers[2].source == "mean over all of 8,4"
    assert all(each.control.trials for each in report.attackers)
    assert report.comparisons
    assert RobustnessResult.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_every_attacked_text_says_how_similar_it_is_and_whether_its_true_label_changed(attacked: Any) -> None:
    folder, result, _ = attacked
    lines = rows(folder, "attacks.jsonl")
    assert {line["bitmap"] for line in lines} == {"8", "4", "mean over all of 8,4"}
    for line in lines:
        known = {"similarity", "true_label_changed"} <= line["measures"].keys()
        assert known == (line["status"] != "skipped")
        assert line["status"] != "success" or not line["measures"]["true_label_changed"]
    for rate, similar in zip(result["robustness"]["label_changed"], result["robustness"]["similar"], strict=True):
        assert rate["low"] <= rate["high"]
        assert list(similar) == ["0.6", "0.7", "0.8", "0.9", "0.95"]


def test_the_report_shows_the_attackers_the_tests_and_the_meaning(attacked: Any) -> None:
    folder, result, _ = attacked
    step: Any = SimpleNamespace(findings=findings.attacked(folder, result))
    titles = [block.caption for block in attack_blocks(step, "a") if isinstance(block, Table)]
    for beginning in ("Success by how similar", "Four attackers against random", "Differences in how often"):
        assert any(title.startswith(beginning) for title in titles)
    said = " ".join(statement.text for statement in attack_statements(step))
    assert "An attacker who knows the defense" in said
    assert "corrected for" in said


def test_a_run_that_was_killed_judges_and_attacks_only_what_is_missing(
    attacked: Any, review_checkpoint: Any, monkeypatch: Any
) -> None:
    folder, whole, root = attacked
    for name, keep in (("attacks.jsonl", 9), ("attacks_judged.jsonl", 1)):
        lines = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(lines[:keep]) + '{"torn')
    (folder / "result.json").unlink()
    done: list[Any] = []
    true = on_pool.AttackActor.do
    monkeypatch.setattr(on_pool.AttackActor, "do", lambda self, item: done.append(item) or true(self, item))
    again = execute("attack", config(review_checkpoint, root), folder)
    assert again["robustness"] == whole["robustness"]
    assert len(done) == 3 * 4 - 9 + 4 - 1


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_text_that_cannot_be_attacked_or_judged_is_counted_and_stops_nothing(
    review_checkpoint: Any, tmp_path: Any, monkeypatch: Any, at_once: int
) -> None:
    attack, judge = TextFooler.run, on_pool.AttackActor._judge

    def attack_all_but_one(self: Any, example: Any) -> Any:
        if example.id == 1:
            raise RuntimeError("no such tensor")
        return attack(self, example)

    def judge_all_but_one(self: Any, results: Any) -> Any:
        if results[0].example_id == 2:
            raise ValueError("no such label")
        return judge(self, results)

    monkeypatch.setattr(TextFooler, "run", attack_all_but_one)
    monkeypatch.setattr(on_pool.AttackActor, "_judge", judge_all_but_one)
    found = execute("attack", config(review_checkpoint, tmp_path, texts_at_once=at_once), tmp_path / "run")
    assert found["examples"] == found["robustness"]["examples"] == 2
    assert found["left_out"] == [
        {"example": 1, "reason": "RuntimeError: no such tensor"}, {"example": 2, "reason": "ValueError: no such label"},
    ]  # fmt: skip


def test_when_every_text_fails_the_first_reason_is_given(
    review_checkpoint: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    def fail(self: Any, example: Any) -> Any:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(TextFooler, "run", fail)
    with pytest.raises(BadInputError, match="all failed; RuntimeError: the disk is on fire"):
        execute("attack", config(review_checkpoint, tmp_path), tmp_path / "run")


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_full_memory_is_no_fault_of_a_text(
    review_checkpoint: Any, tmp_path: Any, monkeypatch: Any, at_once: int
) -> None:
    def fill(self: Any, example: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(TextFooler, "run", fill)
    with pytest.raises(torch.OutOfMemoryError):
        execute("attack", config(review_checkpoint, tmp_path, texts_at_once=at_once), tmp_path / "run")


def test_texts_attacked_together_give_the_results_of_one_at_a_time(attacked: Any, review_checkpoint: Any) -> None:
    _, alone, root = attacked
    together = execute("attack", config(review_checkpoint, root, texts_at_once=3), root / "together")
    assert together["robustness"] == alone["robustness"]


def test_texts_attacked_together_keep_their_company_when_a_run_goes_on(
    attacked: Any, review_checkpoint: Any, monkeypatch: Any
) -> None:
    _, _, root = attacked
    folder, settings = root / "in_company", config(review_checkpoint, root, texts_at_once=2)
    whole = execute("attack", settings, folder)
    lines = (folder / "attacks.jsonl").read_text().splitlines(keepends=True)
    (folder / "attacks.jsonl").write_text("".join(lines[:5]) + '{"torn')
    (folder / "result.json").unlink()
    company: list[Any] = []
    true = on_pool.together_at

    def noted(at: Any, model: Any, attack: Any, examples: Any, at_once: int) -> Any:
        company.append([example.id for example in examples])
        return true(at, model, attack, examples, at_once)

    monkeypatch.setattr(on_pool, "together_at", noted)
    again = execute("attack", settings, folder)
    assert again["robustness"] == whole["robustness"]
    # four texts at three targets: five results are there, and the one of the second target is done with its neighbor
    assert company == [[0, 1], [2, 3], [0, 1], [2, 3]]
    kept = rows(folder, "attacks.jsonl")
    assert len({(row["example_id"], row["bitmap"]) for row in kept}) == len(kept) == 12


@pytest.mark.parametrize("change", [{"method": {"name": "gbda"}}])
def test_only_attacks_on_words_take_texts_together(review_checkpoint: Any, tmp_path: Any, change: Any) -> None:
    with pytest.raises(BadInputError, match="texts_at_once above 1 is for attacks on words of a classifier: got 2"):
        execute("attack", config(review_checkpoint, tmp_path, texts_at_once=2, adaptive=None, **change), tmp_path / "r")


def test_an_encoder_that_is_none_and_a_method_without_a_mean_are_refused_before_any_worker(
    review_checkpoint: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(on_pool, "pool_of", lambda *a, **k: pytest.fail("a worker was started"))
    with pytest.raises(BadInputError, match="encoder"):
        execute("attack", config(review_checkpoint, tmp_path, encoder=str(tmp_path)), tmp_path / "run")


def test_draws_by_layer_are_averaged_over_four_unless_the_config_says_how_many(
    review_checkpoint: Any, tmp_path: Any
) -> None:
    layer = {"granularity": "layer", "draws": 2}
    found = execute("attack", config(review_checkpoint, tmp_path, limit=1, random_precision=layer), tmp_path / "run")
    report = RobustnessResult.from_json(found["robustness"]).random_precision[0]
    assert report.attackers[2].source.startswith("mean over 4 draws of 8,4 by layer")


def test_question_answering_is_attacked_by_its_context(span_checkpoint: Any, empty_store: Any, tmp_path: Any) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    few = {**WORDS, "settings": {**WORDS["settings"], "most_queries": 8}}
    given = {"limit": 1, "bitmaps": [8], "method": few, "adaptive": None}
    result = execute("attack", config(span_checkpoint, tmp_path, **given), tmp_path / "run")
    assert result["examples"] == 1
    for line in rows(tmp_path / "run", "attacks.jsonl"):
        assert line["label"] == 0
        assert {"f1_before", "f1_after"} <= line["measures"].keys()
        assert (line["measures"]["f1_before"] == 0) is (line["status"] == "skipped")
