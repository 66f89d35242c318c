"""A range test in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrate.document.sheet import Sheet


def range_table(result: Mapping[str, Any]) -> Sheet:
    """Show the loss of each width and its relative fall from the width below."""
    shown = [[str(row["bits"]), f"{row['loss']:.4f}", f"{100 * row['improvement']:.2f}"] for row in result["widths"]]
    title = f"Recommended: {result['lowest']} to {result['highest']} bits"
    return Sheet(["bits", "loss", "improvement (%)"], shown, title=title)
