"""``--dry-run`` says what would run and runs nothing; ``-q`` and ``-v`` tell less and more."""

import io
import json
import logging
import shutil
import socket
import sys
from pathlib import Path

import pytest
import ray
import typer
import yaml
from rich.console import Console

from orchestrate.cli.app import app
from orchestrate.document.planned_step import PlannedStep
from orchestrate.jobs import run as jobs
from orchestrate.jobs.registry import JOBS
from orchestrate.pipeline import run as pipelines
from orchestrate.runs import progress
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.progress import Verbosity
from tests.orchestrate.cli.test_bad_places import LEAST, tree

COMMANDS = typer.main.get_command(app).commands
CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def options_of(name):
    return {option for parameter in COMMANDS[name].params for option in parameter.opts}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("validate", "submit")])
def test_every_command_that_takes_a_config_has_a_dry_run_and_may_tell_less_or_more(name):
    wanted = {"--dry-run", "--quiet", "-q", "--verbose", "-v"}
    takes = "--config" in options_of(name) or name == "demo"
    assert wanted & options_of(name) == (wanted if takes else set())
    assert takes == (name in JOBS or name in ("run", "demo"))


@pytest.fixture
def nothing_runs(monkeypatch, tmp_path):
    """No network, no Ray, no pretrained weights, no data; returns the folder, which is the current one."""

    def refuse(*given, **named):
        raise AssertionError("a dry run must not ask for this")

    for module, name in (
        (socket.socket, "connect"),
        (ray, "init"),
        (jobs, "execute"),
        (pipelines, "execute"),
        (jobs, "tracker_of"),
        (sys.modules["qalof.model.pretrained"], "load_pretrained"),
        (sys.modules["qalof.tasks.factory"], "make_task"),
    ):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", JOBS)
def test_a_dry_run_of_a_job_says_what_would_run_and_writes_nothing(command, nothing_runs, say):
    (nothing_runs / "c").mkdir()
    (nothing_runs / "sp" / "checkpoint").mkdir(parents=True)
    path = nothing_runs / "config.yaml"
    path.write_text(yaml.safe_dump({"command": command, **LEAST[command]}))
    before = tree(nothing_runs)
    code, said, error = say(command, "--config", path, "--output", "run", "--dry-run")
    assert (code, error) == (0, "")
    assert said.startswith(f"{command}: ")
    assert max(map(len, said.splitlines())) <= 80
    code, said, error = say(command, "--config", path, "--output", "run", "--dry-run", "--json")
    found = json.loads(said)
    assert (found["dry_run"], found["command"], found["state"]) == (True, command, "new")
    assert tree(nothing_runs) == before


@pytest.mark.parametrize("command", JOBS)
def test_every_job_says_what_it_would_cost_where_the_sizes_of_its_model_are_known(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c").mkdir()
    trained = JOBS["train"].config.model_validate(LEAST["train"])
    job = JOBS[command]

    def cost(**more):
        config = job.config.model_validate({"command": command, **LEAST[command], **more})
        return job.estimate(PlannedStep("s", command, config, tmp_path / "s"), trained)

    found = cost()
    assert found.hours > 0
    assert found.describe().endswith("under 1 min") or " about " in found.describe()
    if command == "sweep":
        grid, drawn = ({"space": {"training.seed": [1, 2, 3]}, **more} for more in ({}, SAMPLED))
        assert cost(**grid).trained == 3 * cost(**{**grid, "space": {"training.seed": [1]}}).trained
        assert cost(**drawn).trained == 4 * cost(**{**grid, "space": {"training.seed": [1]}}).trained
    if command == "profile":
        both = cost(measures=["speed", "latency"])
        assert both.forward == cost(measures=["speed"]).forward + cost(measures=["latency"]).forward
    if command == "export":
        assert cost(bitmap=8).written > cost(bitmap=4).written


SAMPLED = {"strategy": "tpe", "samples": 4}


def test_a_dry_run_refuses_what_a_run_would_lack(nothing_runs, say):
    for words in (
        ["evaluate", "--checkpoint", "nowhere"],
        ["evaluate", "--checkpoint", ".", "bitmaps=[nowhere.json]"],
        ["export", "--checkpoint", "nowhere", "--bitmap", "8", "--output", "packed"],
    ):
        code, said, error = say(*words, "--dry-run")
        assert (code, said) == (2, "")
        assert "nowhere" in error
        assert error.count("\n") == 1
    code, _, error = say("train", "training.stesp=3", "--dry-run")
    assert code == 2
    assert "training.stesp" in error


def test_a_dry_run_of_a_pipeline_says_which_steps_are_finished_begun_or_replaced_and_what_is_left(nothing_runs, say):
    steps = [
        {"name": name, "command": "train", "config": {**LEAST["train"], "training": {"steps": number}}}
        for number, name in enumerate(("done", "begun", "other", "new"), start=1)
    ]
    steps.append({"name": "scored", "command": "evaluate", "config": {"checkpoint": "step:begun"}})
    path, place = nothing_runs / "p.yaml", nothing_runs / "all"
    path.write_text(yaml.safe_dump({"command": "run", "title": "Four", "steps": steps}))
    from orchestrate.config.loader import to_plain
    from orchestrate.pipeline.plan import load_pipeline, plan

    done, begun, other, _, scored = plan(load_pipeline(path), place)
    for step in (done, begun, scored):
        made = RunDirectory.open(
            step.folder, step.command, to_plain(step.config), JOBS[step.command].inputs(step.config)
        )
        if step is not begun:
            made.finish({"seconds": 1.0})
    RunDirectory.open(other.folder, "train", to_plain(done.config))
    before = tree(nothing_runs)
    code, said, error = say("run", "--config", path, "--output", place, "--dry-run", "--json")
    assert (code, error) == (0, "")
    found = json.loads(said)
    states = {step["name"]: step["state"] for step in found["steps"]}
    assert states == {"done": "finished", "begun": "begun", "other": "another", "new": "new", "scored": "again"}
    assert 0 < found["hours_left"] < found["hours"]
    said = " ".join(say("run", "--config", path, "--output", place, "--dry-run")[1].split())
    assert "Four: 5 steps, 1 of them finished" in said
    assert "finished already: its result is taken as it stands" in said
    assert "of which is left: " in said
    assert tree(nothing_runs) == before


def test_validate_and_a_dry_run_say_the_same_of_a_pipeline(nothing_runs, say):
    config = CONFIGS / "s3" / "bits.yaml"
    assert say("validate", "--config", config, "scale=tiny") == say(
        "run", "--config", config, "scale=tiny", "--dry-run"
    )


@pytest.fixture
def told(monkeypatch):
    """What is told on standard error, with the verbosity reset at the end."""
    console = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr(progress, "console", console)
    monkeypatch.setattr(progress, "_told", Verbosity.NORMAL)
    return console.file


@pytest.fixture
def telling_job(monkeypatch):
    """A job in the place of ``evaluate`` that tells of 20 units."""

    def execute(command, config, output, address):
        progress.say("begun")
        progress.detail("a file")
        with progress.progress_bar("work", 20) as bar:
            for number in range(20):
                bar.advance(f"unit {number}")
        return {"rows": [], "seconds": 1.0}

    monkeypatch.setattr(jobs, "execute", execute)
    monkeypatch.setattr(JOBS["evaluate"], "terminal", lambda result, folder: ["the result"], raising=False)


@pytest.mark.parametrize(("option", "lines"), [([], 12), (["-q"], 0), (["-v"], 22)])
def test_less_or_more_is_told_and_the_result_is_printed_at_any_rate(option, lines, told, telling_job, say, tmp_path):
    words = ["evaluate", "--checkpoint", tmp_path, "--output", tmp_path / "run", *option]
    code, said, _ = say(*words)
    assert code == 0
    assert "the result" in said
    assert len(told.getvalue().splitlines()) == lines
    assert json.loads(say(*words, "--json")[1])["seconds"] == 1.0


def test_errors_are_printed_when_all_else_is_not_and_both_ways_at_once_are_refused(told, say):
    level = logging.getLogger().level
    code, said, error = say("evaluate", "--checkpoint", "/nowhere", "-q")
    assert (code, said) == (2, "")
    assert "/nowhere" in error
    assert logging.getLogger().level == level  # of the process, not of a command
    assert "only one of --quiet and --verbose" in say("train", "-q", "-v")[2]


def test_a_quiet_pipeline_prints_where_its_report_is(told, say, tmp_path, lm_checkpoint, empty_store):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    step = {"name": "packed", "command": "export", "config": {"checkpoint": str(lm_checkpoint), "bitmap": 8}}
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({"command": "run", "steps": [step], "tracking": {"root": str(tmp_path)}}))
    code, said, error = say("run", "--config", path, "--output", tmp_path / "all", "-q")
    assert (code, said, error) == (0, f"{tmp_path / 'all' / 'report.html'}\n", "")
