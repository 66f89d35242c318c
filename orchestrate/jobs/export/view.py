"""An export in a report."""

from __future__ import annotations

from orchestrate.document import formats
from orchestrate.document.blocks import Cell, Statement, Table
from orchestrate.jobs.export.findings import Exported


def export_table(found: Exported) -> Table:
    """Show what was written, and its size."""
    size = Cell(formats.size(found.bytes), f"{formats.count(found.bytes)} bytes")
    row = [Cell(found.format), Cell(formats.bitmap_heading(found.bitmap), found.bitmap), Cell(found.summary), size]
    return Table("The export", ["Format", "Bitmap", "Widths", "All files"], [row])


def export_statement(found: Exported) -> Statement:
    """State what was written, and how far the file departs from the model."""
    differs = ""
    if found.differing and found.difference is not None:
        differs = (
            f" The weights of {formats.count_of(found.differing, 'site')} are not those that the model computes with: "
            f"they differ by up to {formats.three_digits(found.difference)}."
        )
    where = formats.bitmap_heading(found.bitmap)
    return Statement(f"The checkpoint at {where} takes {formats.size(found.bytes)} as {found.format}.{differs}")
