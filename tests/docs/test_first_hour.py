"""The page of the first hour is what its script ran, and what it shows can be read in 80 columns."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("first_hour", ROOT / "benchmarks" / "first_hour.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "first_hour", module)
    spec.loader.exec_module(module)
    return module


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```text\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def test_the_page_has_every_command_of_its_script_in_order(script):
    typed = [block.replace("\\\n", " ").split("\n")[0] for block in blocks(script.PAGE)]
    assert [shlex.split(line)[1:] for line in typed] == [shlex.split(step.command) for step in script.STEPS]


def test_what_it_shows_fits_80_columns_is_not_cut_and_names_no_folder_of_a_machine(script):
    for block in blocks(script.PAGE):
        assert [line for line in block.splitlines() if len(line) > 80] == []
        for mark in ("…", "\x1b", "/tmp/", "/root/", "Traceback", "Warning"):
            assert mark not in block, mark


def test_a_screen_shows_what_stands_on_it_in_the_end(script):
    screen = script.Screen()
    screen.write(
        "begun\r\n\x1b[?25l\x1b[2Ktrain 1/8\r\n  8: 3.2\r\x1b[2K\x1b[1A\x1b[2Ktrain 8/8\r\n  8: 1.7\r\n\x1b[?25h"
    )
    screen.write("\x1b[1mbold\x1b[0m\r\n" + "x" * 81 + "\r\nshort\rlong\n")
    assert screen.text().splitlines() == ["begun", "train 8/8", "  8: 1.7", "bold", "x" * 80, "x", "longt"]


def test_a_long_command_is_shown_as_a_shell_takes_it(script):
    for step in script.STEPS:
        typed = script.as_typed(step.command)
        assert all(len(line) <= 80 for line in typed.splitlines())
        assert shlex.split(typed.replace("\\\n", " "))[1:] == shlex.split(step.command)
