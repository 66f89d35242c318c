"""A range test in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrate.document.formats import level, percent
from orchestrate.document.sheet import Sheet
from orchestrate.document.terminal import plain


def range_table(result: Mapping[str, Any]) -> Sheet:
    """Show the loss of each width and its relative fall from the width below."""
    shown = [
        [str(row["bits"]), level(row["loss"], "loss"), plain(percent(100 * row["improvement"], 2))]
        for row in result["widths"]
    ]
    title = f"Recommended: {result['lowest']} to {result['highest']} bits"
    return Sheet(["bits", "loss", "improvement"], shown, title=title)
