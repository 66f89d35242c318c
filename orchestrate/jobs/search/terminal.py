"""A front and its judgement in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from orchestrate.document.formats import bits, cost, count_of
from orchestrate.document.sheet import Sheet
from orchestrate.document.terminal import heading, interval, size, summaries
from orchestrate.runs.layout import FRONT
from qalof.bitmap_names import short_name
from qalof.metrics import described
from qalof.statistics import Interval


def front_table(result: Mapping[str, Any], folder: Path) -> Sheet:
    """Show the front's metrics with their intervals, and what its bitmaps cost; ``front.json#3`` counts in this
    order.
    """
    front = result["front"]
    metrics = [name for name in (front[0] if front else {}) if f"{name}_low" in front[0]]
    headings = ["bitmap", "no.", *map(heading, metrics), "average bits", "weights"]
    shown = []
    for number, row in enumerate(front, start=1):
        intervals = [interval(name, Interval.from_columns(row, name)) for name in metrics]
        costs = [bits(row["average_bits"]), size(row["weight_bytes"])]
        shown.append([short_name(row["bitmap"]), str(number), *intervals, *costs])
    place = str(folder / FRONT)
    example = f"; evaluate or export one with --bitmap {place}#{front[0].get('id', 1)}" if front else ""
    title = f"Front of {result['evaluations']} evaluations{example}"
    return Sheet(headings, shown, title=title, notes=summaries(front), whole=place)


def judged_table(result: Mapping[str, Any]) -> list[Text | Sheet]:
    """Say what the judgement found, and show the finalists of each budget; nothing where nothing was judged."""
    judgement = result.get("judgement")
    if judgement is None:
        return []
    metric, rows = judgement["metric"], judgement["rows"]
    if not rows:
        return [Text(judgement["answer"])]
    name = next(iter(rows[0]))
    headings = [described(name).label, "mixed", heading(metric), "uniform", heading(metric), "gain"]
    shown = [
        [
            bits(row[name]) if name == "average_bits" else cost(row[name], name),
            row["mixed"],
            interval(metric, Interval.from_columns(row, metric)),
            row["uniform"],
            interval(metric, Interval.from_columns(row, f"uniform_{metric}")),
            interval(metric, Interval.from_columns(row, "gain")),
        ]
        for row in rows
    ]
    title = f"Finalists on {judgement['examples']} examples that the search has not seen"
    return [Text(judgement["answer"]), Sheet(headings, shown, title=title)]


def notes(result: Mapping[str, Any]) -> list[Text]:
    """Say why the strategy is not the usual one, and how many bitmaps could not be evaluated, with the reason of the
    first; nothing where neither is so.
    """
    note, failures = result.get("strategy_note"), result.get("failures", [])
    resolution = result.get("resolution")
    said = [Text(each) for each in (note, resolution and resolution["text"]) if each]
    if broken := result.get("breaking"):
        first, count = broken[0], count_of(len(broken), "bitmap")
        said.append(Text(f"{count} on no front, since they break limits, the first, #{first['id']}: {first['breaks']}"))
    if failures:
        first, count = failures[0], count_of(len(failures), "bitmap")
        said.append(Text(f"{count} could not be evaluated, the first, #{first['id']}, because of: {first['reason']}"))
    return said
