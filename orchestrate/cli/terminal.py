"""What a person reads in the terminal when a command is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from orchestrate.document import formats
from orchestrate.document.sheet import Sheet
from orchestrate.document.terminal import plain
from orchestrate.jobs.registry import JOBS


def show(command: str, result: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """Print a command's result on standard output, or on ``console``."""
    console = console or Console(highlight=False, markup=False)
    for part in parts_of(command, result, folder):
        console.print(part)


def parts_of(command: str, result: Mapping[str, Any], folder: Path) -> list[RenderableType]:
    """Make what is printed of a command's result, from top to bottom."""
    return [*JOBS[command].terminal(result, folder), f"{folder}  ({formats.duration(result['seconds'])})"]


def show_table(table: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a reference's table on standard output, or on ``console``."""
    # the brackets of intervals are not markup
    (console or Console(highlight=False, markup=False)).print(reference_table(table))


def reference_table(table: Mapping[str, Any]) -> Sheet:
    """Show a reference's table: our number with its interval, theirs, and the difference."""
    title = (
        f"{table['title']} ({table['source']}, scale {table['scale']}): ours with its 95 % interval; theirs, difference"
    )
    headings = ["", *(column["name"] for column in table["columns"])]
    shown = [[row["name"], *map(_table_cell, row["cells"])] for row in table["rows"]]
    return Sheet(headings, shown, title=title, caption=[" ".join(table["notes"])] if table["notes"] else [])


def _table_cell(cell: Mapping[str, Any]) -> str:
    theirs = "" if cell["reference"] is None else f"\ntheirs {formats.as_given(cell['reference'])}"
    difference = f", {formats.by_magnitude(cell['difference'], plus=True)}" if "difference" in cell else ""
    return f"{plain(formats.measured(cell))}{theirs}{difference}"
