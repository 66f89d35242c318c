"""Scores at bitmaps in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrate.document.sheet import Sheet
from orchestrate.document.terminal import heading, interval, mib, summaries
from qalof.bitmap_names import short_name
from qalof.statistics import Interval


def bitmap_table(rows: Sequence[Mapping[str, Any]]) -> Sheet:
    """Metrics with their 95 % intervals, and costs, by bitmap."""
    headings = ["bitmap", *map(heading, rows[0]["metrics"]), "average bits", "weights"]
    shown = []
    for row in rows:
        metrics = [interval(name, Interval.from_json(values)) for name, values in row["metrics"].items()]
        cost = row["cost"]
        shown.append([short_name(row["bitmap"]), *metrics, f"{cost['average_bits']:.2f}", mib(cost["weight_bytes"])])
    return Sheet(headings, shown, notes=summaries(rows))
