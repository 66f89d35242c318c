"""One set of number formats: a metric, an interval, a size and a duration read alike in a terminal and in a report."""

import ast
import re
from pathlib import Path

import pytest

from orchestrate.cli.terminal import parts_of, reference_table
from orchestrate.document import formats, terminal
from orchestrate.report.table_blocks import _cell
from qalof.metrics import METRICS
from qalof.statistics import Interval
from tests.sources import name_of, nodes

ROOT = Path(__file__).resolve().parents[3] / "orchestrate"
SHOWN = [
    *ROOT.glob("jobs/*/*terminal.py"),
    *ROOT.glob("jobs/*/*view.py"),
    *ROOT.glob("jobs/*/sentences.py"),
    *ROOT.glob("jobs/*/wording.py"),
    *ROOT.glob("report/*.py"),
    ROOT / "cli" / "terminal.py",
    ROOT / "document" / "terminal.py",
]
"""The files that make what people read of a result."""

VALUES = [0.0, -0.04, 0.4215, 9.996, 83.25, -12.5, 1234.5678, 12_345_678.0, float("nan"), float("inf")]


@pytest.mark.parametrize("metric", [*METRICS, "a_metric_of_ones_own"])
def test_a_metric_and_its_interval_read_alike_in_terminal_and_report(metric):
    for value in VALUES:
        for interval in (Interval.exact(value), Interval(value, value - 1, value + 1)):
            report = formats.level_with_interval(interval, metric)
            assert terminal.interval(metric, interval) == report.replace(formats.NBSP, " ")


@pytest.mark.parametrize("value", VALUES)
def test_a_negative_number_has_a_true_minus_a_zero_none_and_thousands_have_commas(value):
    for text in (formats.signed(value, 3), formats.by_magnitude(value), formats.level(value, "loss")):
        assert "-" not in text
        assert not re.search("[0-9]{4}", text.partition(".")[0])
    assert formats.signed(-0.0001, 2) == formats.signed(0.0, 2) == "0.00"


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 104_857, 104_858, 10**6, 123_456_789, 2**40])
def test_a_size_reads_alike_and_is_within_half_of_its_last_digit(count):
    text = terminal.size(count)
    assert text == formats.size(count).replace(formats.NBSP, " ")
    number, unit = text.split()
    factor = {"bytes": 1, "KiB": 2**10, "MiB": 2**20}[unit]
    assert abs(float(number.replace(",", "")) * factor - count) <= max(0.5, 0.0051 * count)


def test_the_cells_of_a_reference_read_alike_in_terminal_and_report():
    cell = {"value": 83.251, "low": 80.0, "high": 86.5, "reference": 85.25, "difference": -1.999, "reason": ""}
    table = {"title": "T", "source": "S", "scale": "tiny", "notes": [], "columns": [{"name": "F1"}]}
    shown = reference_table({**table, "rows": [{"name": "r", "cells": [cell]}]}).rows[0][1]
    numbers = re.compile("[−+0-9.,]*[0-9]")
    assert numbers.findall(shown) == numbers.findall(_cell(cell).text) == ["83.3", "80.0", "86.5", "85.25", "−1.999"]


def test_a_duration_reads_alike_in_terminal_and_report(tmp_path):
    result = {"seconds": 3725.2, "widths": [{"bits": 4, "loss": 1.0, "improvement": 0.1}], "lowest": 4, "highest": 8}
    assert parts_of("range-test", result, tmp_path)[-1] == f"{tmp_path}  ({formats.duration(3725.2)})"


def test_no_file_that_shows_results_rounds_by_itself():
    specs = [
        (name_of(path), ast.unparse(node.format_spec))
        for path in SHOWN
        for node in nodes(path)
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None
    ]
    assert not [(name, spec) for name, spec in specs if re.search(r"\.[1-9][0-9]*[fge%]", spec)]
