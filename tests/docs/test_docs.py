"""What the documentation says can be run, can be run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import search
from orchestrate.config.loader import validate
from qalof.quantization.quantizer import Quantizer

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
BASE = {"task": {"name": "squad-span"}, "objective": {"name": "spnet"}}
"""What a section in a YAML block is completed with."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def with_blocks(language: str) -> list[Any]:
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if blocks(page, language)]


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What an example registers is forgotten after it."""
    from orchestrate.jobs.registry import JOBS

    jobs = dict(JOBS)
    monkeypatch.setattr(Quantizer, "registry", dict(Quantizer.registry))
    known = dict(search.STRATEGIES)
    monkeypatch.setattr("search.strategies.STRATEGIES", known)
    monkeypatch.setattr(search, "STRATEGIES", known)
    yield
    JOBS.clear()
    JOBS.update(jobs)


@pytest.mark.parametrize("page", with_blocks("python"))
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, registries, quick_commands):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}
    for number, code in enumerate(blocks(page, "python"), 1):
        exec(compile(code, f"{page.name}, block {number}", "exec", dont_inherit=True), namespace)


@pytest.mark.parametrize("page", with_blocks("yaml"))
def test_the_yaml_of_a_page_is_a_config_or_sections_of_one(page):
    from orchestrate.config.train import TrainConfig
    from orchestrate.jobs.registry import JOBS

    for text in blocks(page, "yaml"):
        data = yaml.safe_load(text)
        kind = JOBS[data["command"]].config if "command" in data else TrainConfig
        validate(kind, data if "command" in data else {**BASE, **data}, str(page))


def command_lines(page: Path) -> list[list[str]]:
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words for words in lines if words and words[0] == "qalof"]


@pytest.mark.parametrize("page", [*with_blocks("bash"), pytest.param(ROOT / "README.md", id="README.md")])
def test_every_command_line_of_a_page_is_understood(page, monkeypatch):
    monkeypatch.setenv("QALOF_DATA", "data")  # where a config for real data says that it lies
    import typer.main

    from orchestrate.cli.app import app

    group: Any = typer.main.get_command(app)
    for words in command_lines(page):
        with group.make_context("qalof", words[1:], resilient_parsing=True) as context:
            name, command, rest = group.resolve_command(context, words[1:])
        given = command.make_context(name, list(rest)).params
        check_overrides(name, given)


def check_overrides(name: str, given: dict[str, Any]) -> None:
    """Config and overrides fit together, where the command has them."""
    from orchestrate.config.loader import load_config
    from orchestrate.jobs.registry import JOBS
    from orchestrate.pipeline.plan import load_pipeline, step_configs

    path, overrides = given.get("config"), list(given.get("overrides") or [])
    if path is not None:
        path = ROOT / path
        assert path.is_file(), path
    if name in JOBS and (path is not None or overrides):
        checkpoint = given.get("checkpoint")
        load_config(JOBS[name].config, path, ([f"checkpoint={checkpoint}"] if checkpoint else []) + overrides)
    elif name == "run":
        step_configs(load_pipeline(path, overrides), Path("runs/docs"))


def test_every_file_that_a_page_names_exists():
    named = [
        (page, path)
        for page in PAGES
        for path in re.findall(r"(?<![\w/])(?:configs|benchmarks)/[\w/.-]+\.\w+", page.read_text())
    ]
    assert [(page.name, path) for page, path in named if not (ROOT / path).is_file()] == []
    assert named
