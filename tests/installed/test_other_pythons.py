"""Which versions of Python are promised, and how their interpreters are found."""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCRIPT = runpy.run_path(str(ROOT / "tests" / "installed" / "other_pythons.py"))
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_the_versions_that_are_named_begin_with_the_lowest_that_installs_and_that_the_linters_read():
    named = SCRIPT["named_versions"]()
    assert named == ["3.11", "3.12", "3.13"]
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{named[0].replace('.', '')}"
    assert PROJECT["tool"]["mypy"]["python_version"] == named[0]
    assert "make test-pythons" in map(str.strip, (ROOT / ".ci" / "run").read_text().splitlines())


def test_whoever_reads_how_to_set_up_learns_the_versions():
    for name in ("README.md", "CONTRIBUTING.md", "docs/getting_started.md"):
        assert re.search(r"Python 3\.11, 3\.12 or 3\.13\b", (ROOT / name).read_text()), name


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """A machine with no interpreters: an empty path, and a folder of pyenv's without versions."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return tmp_path


def test_without_an_interpreter_none_is_found(machine):
    assert SCRIPT["find_interpreter"](OWN) is None


def test_an_interpreter_on_the_path_is_found(machine):
    executable(machine / "bin" / f"python{OWN}", f'exec {sys.executable} "$@"')
    assert SCRIPT["find_interpreter"](OWN) == str(machine / "bin" / f"python{OWN}")


def test_a_shim_that_does_not_run_gives_way_to_the_interpreter_behind_it(machine):
    executable(machine / "bin" / f"python{OWN}", "exit 127")
    behind = machine / "pyenv" / "versions" / f"{OWN}.0" / "bin" / "python"
    executable(behind, f'exec {sys.executable} "$@"')
    assert SCRIPT["find_interpreter"](OWN) == str(behind)


def test_an_interpreter_of_another_version_is_not_taken(machine):
    executable(machine / "bin" / "python3.99", f'exec {sys.executable} "$@"')
    assert SCRIPT["find_interpreter"]("3.99") is None


def test_a_source_that_an_interpreter_cannot_read_ends_the_check(tmp_path):
    for folder in ("qalof", "search", "orchestrate", "tests", "benchmarks", "docs"):
        (tmp_path / folder).mkdir()
    SCRIPT["compile_all"](sys.executable, tmp_path)
    (tmp_path / "docs" / "bad.py").write_text("match = 1 if\n")
    with pytest.raises(SystemExit, match="bad.py"):
        SCRIPT["compile_all"](sys.executable, tmp_path)
