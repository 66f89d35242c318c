"""Progress in a terminal of 80 columns."""

import io
import re

import pytest
from rich.console import Console

from orchestrate.runs import progress

NOTES = {
    "short": "8: 0.412",
    "long": "w8a8kv8: 1.723  w4a8kv8: 2.514  #abcdef: 4.511  #ghijkl: 1.233  w3a4kv4: 44.321  w2a4kv4: 123.456",
    "none": "",
}


@pytest.mark.parametrize("note", NOTES.values(), ids=NOTES)
@pytest.mark.parametrize("description", ["train", "generate-data"])
def test_a_bar_shows_its_counts_and_times_and_the_whole_note_within_80_columns(description, note, monkeypatch):
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=80, highlight=False, color_system=None)
    monkeypatch.setattr(progress, "console", terminal)
    with progress.progress_bar(description, 12_345) as bar:
        for done in (1_200, 1_217, 1_234):
            bar.update(done, note)
    last = shown.getvalue().rsplit("\x1b[2K", 1)[1].split("\x1b")[0]
    assert all(len(line.rstrip()) <= 80 for line in last.splitlines())
    first, *below = last.splitlines()
    assert first.startswith(description)
    assert re.search(r"1234/12345 [\d.e+]+/s 0:00:0\d", first), "the count, the rate and the time so far"
    assert re.search(r"0:00:0\d (-:--:--|\d+:\d\d:\d\d)$", first.rstrip()), "and the time left"
    assert "…" not in last
    assert " ".join(below).split() == note.split()


def test_elsewhere_there_is_a_line_for_each_tenth_of_the_work(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=shown, width=80))
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.progress_bar("train", 200) as bar:
        for done in range(1, 201):
            clock[0] += 2.0
            bar.update(done, "8: 0.412")
    lines = shown.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[0] == "train: 1/200 after 2 s  8: 0.412", "one report makes no rate"
    assert lines[5] == "train: 100/200 after 200 s, 2 s each, 200 s left  8: 0.412"
    assert lines[-1] == "train: 200/200 after 400 s, 2 s each  8: 0.412"


def test_what_an_earlier_run_has_done_makes_this_one_no_faster(monkeypatch):
    shown, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(progress, "console", Console(file=shown, width=80))
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.progress_bar("train", 1000) as bar:
        for done in (501, 700):
            clock[0] += 10.0
            bar.update(done)
    assert shown.getvalue().splitlines()[-1] == "train: 700/1000 after 20 s, 19.9/s, 15 s left"
