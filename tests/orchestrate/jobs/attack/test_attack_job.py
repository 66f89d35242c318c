"""Attacks as a command: the same results after a kill; tests of a lost node compare them with those of actors."""

import json

from orchestrate.jobs.attack.config import AttackConfig
from orchestrate.jobs.run import execute
from qalof.files import read_whole_lines


def config(checkpoint, root):
    return AttackConfig.model_validate(
        {
            "checkpoint": str(checkpoint),
            "limit": 3,
            "bitmaps": [8, 4],
            "method": {"name": "gbda", "settings": {"iterations": 2, "batch": 1, "samples": 2}},
            "random_precision": {"bitmaps": [8, 4], "granularity": "layer", "draws": 2},
            "workers": {"count": 1, "in_process": True, "threads": 1},
            "tracking": {"root": str(root)},
        }
    )


def lines(folder):
    whole = read_whole_lines(folder / "attacks.jsonl")
    parsed = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in whole]
    return sorted(parsed, key=lambda line: (line["bitmap"], line["example_id"]))


def test_a_killed_attack_does_only_what_is_missing_and_its_report_has_transfer_random_precision_and_the_control(
    review_checkpoint, tmp_path
):
    whole = execute("attack", config(review_checkpoint, tmp_path), tmp_path / "run")
    attacked = lines(tmp_path / "run")
    # as a kill leaves it: no result yet, some attacks on record, the last line torn
    record = tmp_path / "run" / "attacks.jsonl"
    kept = record.read_text().splitlines(keepends=True)[:3]
    record.write_text("".join(kept) + '{"example_id": 1, "bit')
    (tmp_path / "run" / "result.json").unlink()
    again = execute("attack", config(review_checkpoint, tmp_path), tmp_path / "run")
    assert record.read_text().startswith("".join(kept))
    assert lines(tmp_path / "run") == attacked
    assert again["robustness"] == whole["robustness"]
    found = whole["robustness"]
    assert [len(row) for row in found["transfer"]] == [2, 2]
    for rate in (*found["clean_accuracy"], found["random_precision"][0]["clean_accuracy"]):
        assert 0 <= rate["low"] <= rate["estimate"] <= rate["high"] <= 1
