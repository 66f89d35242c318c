"""What a person reads in the terminal when a command is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from orchestrate.document.sheet import Sheet
from orchestrate.document.terminal import level
from orchestrate.jobs.attack.terminal import robustness_table
from orchestrate.jobs.ptq.terminal import baselines_table
from orchestrate.jobs.range_test.terminal import range_table
from orchestrate.jobs.search.terminal import front_table
from orchestrate.jobs.sensitivity.terminal import errors_table, ranking_table
from orchestrate.jobs.shared.terminal import bitmap_table
from orchestrate.jobs.sweep.terminal import sweep_table


def show(command: str, result: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """Print a command's result on standard output, or on ``console``."""
    console = console or Console(highlight=False, markup=False)
    for part in parts_of(command, result, folder):
        console.print(part)


def parts_of(command: str, result: Mapping[str, Any], folder: Path) -> list[RenderableType]:
    """What is printed of a command's result, from top to bottom."""
    parts: list[RenderableType] = []
    if command == "baselines":
        parts.append(baselines_table(result))
    elif "rows" in result:
        parts.append(bitmap_table(result["rows"]))
        if ended := result.get("training_loss"):
            parts.append(_training_loss(ended))
        for title, counts in (("training data", result.get("training_data", {})), ("scored", _counts(result["rows"]))):
            if told := ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items() if count):
                parts.append(f"{title}: {told}")
    elif command == "sensitivity":
        errors = result.get("score") == "output_error"
        parts.append(errors_table(result) if errors else ranking_table(result, folder))
    elif command == "search":
        parts.append(front_table(result, folder))
    elif command == "sweep":
        parts.append(sweep_table(result))
    elif command == "range-test":
        parts.append(range_table(result))
    elif command == "attack":
        parts.append(robustness_table(result["robustness"]))
    elif command == "generate-data":
        counted = f"{result['texts']:,} {result['kind']} of {result['mean_tokens']:.0f} tokens on average"
        parts.append(f"{counted}, {result['ended']:,} to their own end; data: {result['data']}")
    return [*parts, f"{folder}  ({result['seconds']:.0f} s)"]


def show_table(table: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a reference's table on standard output, or on ``console``."""
    # brackets of intervals are no markup
    (console or Console(highlight=False, markup=False)).print(reference_table(table))


def reference_table(table: Mapping[str, Any]) -> Sheet:
    """A reference's table: ours with its interval, theirs, and the difference."""
    title = (
        f"{table['title']} ({table['source']}, scale {table['scale']}): ours with its 95 % interval; theirs, difference"
    )
    headings = ["", *(column["name"] for column in table["columns"])]
    shown = [[row["name"], *map(_table_cell, row["cells"])] for row in table["rows"]]
    return Sheet(headings, shown, title=title, caption=[" ".join(table["notes"])] if table["notes"] else [])


def _table_cell(cell: Mapping[str, Any]) -> str:
    theirs = "" if cell["reference"] is None else f"\ntheirs {cell['reference']:,.10g}"
    if cell["value"] is None:
        return f"{cell['reason']}{theirs}"
    ours = level(cell["value"])
    if cell["low"] < cell["high"]:
        ours += f" [{level(cell['low'])}, {level(cell['high'])}]"
    difference = f", {level(cell['difference'], '+')}" if "difference" in cell else ""
    return f"{ours}{theirs}{difference}"


def _training_loss(ended: Mapping[str, Any]) -> str:
    optimized = "" if ended["objective"] is None else f"{ended['objective']:.3f} optimized, "
    steps = "the last step" if ended["over"] == 1 else f"the last {ended['over']} steps"
    return f"training loss over {steps}: {optimized}{ended['cross_entropy']:.3f} cross entropy (nats)"


def _counts(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, int]:
    """What was cut, alike at every bitmap; empty in a result of before there were counts."""
    counts: Mapping[str, int] = rows[0].get("counts", {})
    return counts
