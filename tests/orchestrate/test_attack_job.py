"""Attacks on a pool: the same results for any number of actors, and after a kill."""

import json

import pytest

from orchestrate.jobs.attack.config import AttackConfig
from orchestrate.jobs.run import execute
from qalof.files import read_whole_lines

pytestmark = pytest.mark.ray


def config(checkpoint, root, actors):
    return AttackConfig.model_validate(
        {
            "checkpoint": str(checkpoint),
            "limit": 3,
            "bitmaps": [8, 4],
            "method": {"name": "gbda", "settings": {"iterations": 4, "batch": 2, "samples": 6}},
            "random_precision": {"bitmaps": [8, 4], "granularity": "layer", "draws": 4},
            "workers": {"count": actors, "threads": 1},
            "tracking": {"root": str(root)},
        }
    )


def lines(folder):
    whole = read_whole_lines(folder / "attacks.jsonl")
    parsed = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in whole]
    return sorted(parsed, key=lambda line: (line["bitmap"], line["example_id"]))


def test_the_number_of_actors_changes_no_attack_and_a_killed_one_does_only_what_is_missing(
    ray_session, review_checkpoint, tmp_path
):
    one = execute("attack", config(review_checkpoint, tmp_path, 1), tmp_path / "one")
    two = execute("attack", config(review_checkpoint, tmp_path, 2), tmp_path / "two")
    assert lines(tmp_path / "one") == lines(tmp_path / "two")
    assert one["robustness"] == two["robustness"]
    # as a kill leaves it: no result yet, some attacks on record, the last line torn
    record = tmp_path / "two" / "attacks.jsonl"
    kept = record.read_text().splitlines(keepends=True)[:3]
    record.write_text("".join(kept) + '{"example_id": 1, "bit')
    (tmp_path / "two" / "result.json").unlink()
    again = execute("attack", config(review_checkpoint, tmp_path, 2), tmp_path / "two")
    assert record.read_text().startswith("".join(kept))
    assert lines(tmp_path / "two") == lines(tmp_path / "one")
    assert again["robustness"] == one["robustness"]


def test_the_report_has_the_transfer_matrix_random_precision_and_the_clean_control(
    ray_session, review_checkpoint, tmp_path
):
    found = execute("attack", config(review_checkpoint, tmp_path, 2), tmp_path / "run")["robustness"]
    assert [len(row) for row in found["transfer"]] == [2, 2]
    for rate in (*found["clean_accuracy"], found["random_precision"][0]["clean_accuracy"]):
        assert 0 <= rate["low"] <= rate["estimate"] <= rate["high"] <= 1
