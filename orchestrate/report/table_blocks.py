"""The section of a reference's table, with our numbers and their intervals, theirs, and the differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrate.document import formats
from orchestrate.document.blocks import Cell, Statement, Table
from orchestrate.document.findings import well_formed
from orchestrate.document.record import Record
from orchestrate.report.questions.measured import caption_of
from orchestrate.runs.layout import TABLE
from qalof.errors import BadInputError
from qalof.files import read_json

FORMAT_VERSION = 1
FULL = "full"
_NOTE = (
    "Ours with the 95 % interval over examples, then the reference's number and the difference from it. The "
    "reference gives single numbers, so the difference has no interval of its own: it says something only where "
    "the reference lies outside ours."
)


def reference_table(record: Record) -> tuple[Table, list[Statement]] | None:
    """Make the table of a finished pipeline that has one, with its cautions; otherwise there is None.

    Raises:
        BadInputError: the file is damaged or of another version.
    """
    path = record.folder / TABLE
    if not path.is_file():
        return None
    data = read_json(path, "table file")
    with well_formed(path, "table file"):
        if data["format_version"] != FORMAT_VERSION:
            raise BadInputError(f"version {data['format_version']!r}, where {FORMAT_VERSION} is wanted; run it again")
        header = ["", *(str(column["name"]) for column in data["columns"])]
        rows = [[Cell(str(row["name"])), *map(_cell, row["cells"])] for row in data["rows"]]
        table = Table(caption_of(str(data["title"]), str(data["source"])), header, rows, _NOTE)
        return table, _statements(data)


def _statements(data: Mapping[str, Any]) -> list[Statement]:
    found = [Statement(str(note)) for note in data["notes"]]
    if data["scale"] != FULL:
        found.insert(
            0,
            Statement(
                f"Run at scale {data['scale']}, on another model and other data than the reference: the cells show "
                "that the table can be made; their differences mean nothing.",
                caution=True,
            ),
        )
    return found


def _cell(cell: Mapping[str, Any]) -> Cell:
    theirs = "" if cell["reference"] is None else f"; theirs {formats.as_given(cell['reference'])}"
    difference = f", difference {formats.by_magnitude(cell['difference'], plus=True)}" if "difference" in cell else ""
    return Cell(f"{formats.measured(cell)}{theirs}{difference}", str(cell.get("of", "")))
