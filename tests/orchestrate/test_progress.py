"""Progress in a terminal of 80 columns."""

import io

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
        bar.update(1_234, note)
    last = shown.getvalue().rsplit("\x1b[2K", 1)[1].split("\x1b")[0]
    assert all(len(line.rstrip()) <= 80 for line in last.splitlines())
    first, *below = last.splitlines()
    assert first.startswith(description)
    assert "1234/12345 0:00:0" in first
    assert "…" not in last
    assert " ".join(below).split() == note.split()


def test_elsewhere_there_is_a_line_for_each_tenth_of_the_work(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=shown, width=80))
    with progress.progress_bar("train", 200) as bar:
        for done in range(1, 201):
            bar.update(done, "8: 0.412")
    lines = shown.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[-1] == "train: 200/200 after 0 s  8: 0.412"
