"""Post-training methods in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrate.document.sheet import Sheet
from orchestrate.document.terminal import heading, interval, size, summaries
from qalof.bitmap_names import short_name
from qalof.statistics import Interval


def ptq_table(result: Mapping[str, Any]) -> Sheet:
    """Show metrics by method and bitmap, and how far each is from the reference method there."""
    rows = result["rows"]
    shown = []
    for row in rows:
        apart = {name: f" ({interval(name, Interval.from_json(values))})" for name, values in row["difference"].items()}
        metrics = [
            f"{interval(name, Interval.from_json(values))}{apart.get(name, '')}"
            for name, values in row["metrics"].items()
        ]
        stored = size(row["cost"]["stored_weight_bytes"])
        shown.append([row["method"], short_name(row["bitmap"]), *metrics, stored])
    caption = [f"{name}: {note}" for name, note in summaries(rows).items()]
    if any(row["difference"] for row in rows):
        caption.append(f"In parentheses: the paired difference from {result['reference']} at the same bitmap.")
    return Sheet(["method", "bitmap", *map(heading, rows[0]["metrics"]), "weights"], shown, caption=caption)
