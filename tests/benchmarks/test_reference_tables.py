"""The tables of the four systems on a real model, as they are kept and shown."""

import json
from pathlib import Path

import pytest

from orchestrate.document.formats import NBSP

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path):
    """What a pipeline of two steps leaves."""
    folder = tmp_path / "s3_bits"
    cells = [
        {"value": 2.5, "low": 2.0, "high": 3.0, "reference": 1.138, "reason": None},
        {"value": 4.0, "low": 4.0, "high": 4.0, "reference": None, "reason": None},
    ]
    table = {
        "title": "Loss by width", "source": "S3, 4.2", "scale": "real", "columns": [{"name": "Loss"}, {"name": "Bits"}],
        "rows": [{"name": "4 bits", "cells": cells}], "notes": ["Cut."],
    }  # fmt: skip
    steps = {"sp": "b" * 40, "maps": "a" * 40}
    written = {
        "table.json": table,
        "pipeline.json": {"steps": [{"name": name, "seconds": 90.0} for name in steps]},
    }
    for name, commit in steps.items():
        (folder / name).mkdir(parents=True)
        written[f"{name}/environment.json"] = {
            "git": {"commit": commit}, "usable_cores": 2, "processor": "Some CPU", "packages": {"torch": "2.0"},
        }  # fmt: skip
    for name, content in written.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def test_a_kept_table_is_the_run_s_with_all_that_it_depends_on(run, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from reference_tables import kept

    found = kept(run)
    table = json.loads((run / "table.json").read_text())
    assert {name: found[name] for name in table} == table
    assert found["command"] == "qalof run --config configs/s3/bits.yaml scale=real"
    assert found["commits"] == ["a" * 40, "b" * 40]
    assert found["seconds"] == {"sp": 90.0, "maps": 90.0}
    assert found["hardware"] == "2 cores of Some CPU"


def test_a_shown_table_has_our_number_and_interval_and_the_reference_s_in_italics(run, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from reference_tables import kept, reference_table

    shown = reference_table(kept(run))
    row = next(line for line in shown.splitlines() if line.startswith("| 4 bits"))
    assert f"[2.000,{NBSP}3.000] *1.138*" in row
    assert row.count("*") == 2
    assert "3 minutes on 2 cores of Some CPU; commit `aaaaaaa`, `bbbbbbb`" in shown
    assert shown.endswith("- Cut.")
