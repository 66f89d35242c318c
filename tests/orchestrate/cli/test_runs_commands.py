"""``qalof ls``, ``qalof show`` and ``qalof --version`` read what is there, and stop at nothing damaged."""

import json
import os
import subprocess
import sys

import pytest

from orchestrate.config.loader import load_config, to_plain
from orchestrate.config.shipped import CONFIGS
from orchestrate.config.train import TrainConfig
from orchestrate.runs.directory import RunDirectory
from qalof.files import write_json


@pytest.fixture
def said(say, monkeypatch, tmp_path):
    """Runs a command in an empty folder and returns its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return say


def a_run(folder, finished):
    config = to_plain(load_config(TrainConfig, CONFIGS / "train" / "sp_tiny.yaml", []))
    run = RunDirectory.open(folder, "train", config)
    if finished:
        run.finish({"seconds": 75.0, "steps": 3, "losses": {"8": 1.0}, "device": "cpu", "workers": 1})
    return folder


def test_ls_lists_finished_unfinished_and_damaged_runs_and_pipelines_within_80_columns(said, tmp_path):
    a_run(tmp_path / "runs" / "done", True)
    a_run(tmp_path / "runs" / "begun", False)
    pipeline = tmp_path / "runs" / "group" / "whole"
    a_run(pipeline / "sp", True)
    steps = [{"name": "sp", "command": "train", "seconds": 75.0}, {"name": "score", "command": "evaluate"}]
    write_json(pipeline / "pipeline.json", {"title": "whole", "steps": steps})
    (a_run(tmp_path / "runs" / "torn", True) / "result.json").write_text("{")
    code, output, _ = said("ls", "--json")
    rows = {row["run"]: row for row in json.loads(output)}
    assert code == 0
    assert {name: row["state"] for name, row in rows.items()} == {
        "begun": "not finished", "done": "finished", "group/whole": "1 of 2 finished", "torn": "damaged",
    }  # fmt: skip
    assert rows["done"]["seconds"] == 75.0
    assert rows["group/whole"]["command"] == "pipeline of 2"
    code, output, _ = said("ls")
    assert max(len(line) for line in output.splitlines() if not line.startswith("torn: ")) <= 80
    assert all(name in output for name in rows)
    assert "result.json" in output.split("torn: ")[1]


def test_ls_of_a_folder_without_runs_says_so_and_of_no_folder_is_refused(said, tmp_path):
    assert said("ls", tmp_path)[:2] == (0, f"{tmp_path} holds no run\n")
    code, _, errors = said("ls", tmp_path / "nowhere")
    assert code == 2
    assert "does not exist" in errors


def test_show_says_what_a_run_found_and_refuses_a_folder_without_one(said, tmp_path):
    run = a_run(tmp_path / "runs" / "begun", False)
    code, output, _ = said("show", run, "--json")
    (step,) = json.loads(output)["steps"]
    assert code == 0
    assert (step["command"], step["state"]) == ("train", "not finished")
    assert step["statements"] == ["Not finished: there is no result to report."]
    assert {"config.yaml", "run.json"} <= set(step["files"])
    assert "config.yaml" in said("show", run)[1]
    code, _, errors = said("show", tmp_path)
    assert code == 2
    assert errors.startswith("error: ")


def test_the_version_is_that_of_the_package_and_no_word_at_all_shows_the_help(said):
    from importlib.metadata import version

    assert said("--version") == (0, f"qalof {version('qalof')}\n", "")
    code, output, errors = said()
    assert (code, errors) == (0, "")
    assert output.startswith("Usage: ")
    assert "train" in output


def test_a_shell_completes_the_names_of_commands():
    asked = {"_QALOF_COMPLETE": "complete_bash", "COMP_WORDS": "qalof sea", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", "import sys; sys.argv = ['qalof']; from orchestrate.cli.app import main; main()"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["search"], done.stderr
