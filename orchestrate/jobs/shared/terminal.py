"""Scores at bitmaps in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from orchestrate.document.formats import bits, level
from orchestrate.document.sheet import Sheet
from orchestrate.document.terminal import heading, interval, size, summaries
from qalof.bitmap_names import short_name
from qalof.statistics import Interval


def bitmap_table(rows: Sequence[Mapping[str, Any]]) -> Sheet:
    """Show metrics with their 95 % intervals, and costs, by bitmap."""
    headings = ["bitmap", *map(heading, rows[0]["metrics"]), "average bits", "weights"]
    shown = []
    for row in rows:
        metrics = [interval(name, Interval.from_json(values)) for name, values in row["metrics"].items()]
        cost = row["cost"]
        shown.append([short_name(row["bitmap"]), *metrics, bits(cost["average_bits"]), size(cost["weight_bytes"])])
    return Sheet(headings, shown, notes=summaries(rows))


def score_parts(result: Mapping[str, Any]) -> list[RenderableType]:
    """Show scores at bitmaps, the last losses of training, and what was cut of the data."""
    parts: list[RenderableType] = [bitmap_table(result["rows"])]
    if ended := result.get("training_loss"):
        parts.append(_training_loss(ended))
    for title, counts in (("training data", result.get("training_data", {})), ("scored", _counts(result["rows"]))):
        if cut := ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count):
            parts.append(f"{title}: {cut}")
    return parts


def _training_loss(ended: Mapping[str, Any]) -> str:
    entropy = level(ended["cross_entropy"], "loss")
    optimized = "" if ended["objective"] is None else level(ended["objective"], "loss")
    # without distillation both are the same number, which is shown once
    also = f"{optimized} optimized, " if optimized not in ("", entropy) else ""
    steps = "the last step" if ended["over"] == 1 else f"the last {ended['over']} steps"
    return f"training loss over {steps}: {also}{entropy} cross entropy (nats)"


def _counts(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, int]:
    """Return what was cut of the data, which is the same at every bitmap; empty in a result that was written without
    counts.
    """
    counts: Mapping[str, int] = rows[0].get("counts", {})
    return counts
