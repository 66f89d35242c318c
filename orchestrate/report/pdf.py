"""The PDF: the same contents as the page, laid out by Typst.

All that a report says goes to Typst as one JSON file, and the template shows its texts as values.  A value is never
read as markup, so no text from data, whatever it holds, can call anything or break the document; writing Typst markup
from Python, with an escape per special character, was rejected.  Typst reads nothing else: its files are those given
here, and no package is fetched.

A page is narrower than a screen and cannot be folded.  So a table that is too wide is set as several, each with its
first column, and of a long one both ends are set, with the number of rows between them.  The same contents give the
same bytes: a PDF holds no time of its own.  Fonts are those that come with Typst and Matplotlib, and those of the
machine for scripts that both lack.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib

from orchestrate.document.blocks import Block, Cell, Commands, Examples, Plot, Table
from orchestrate.document.svg import standing_alone
from orchestrate.report.contents import Contents
from qalof.errors import QalofError

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
"""Those that figures were measured with."""
MOST_ROWS, KEPT_ROWS = 48, 24
"""The most rows of a table that are all set, and how many are where there are more."""
LINE = 120
"""How many characters a line of a table holds."""
_WIDEST, _WIDEST_NAME, _GAP = 22, 44, 3
"""How many characters of a cell, and of one of the first column, count at most, since longer ones are broken; and what
lies between columns.
"""


def pdf_document(contents: Contents) -> bytes:
    """Lay a report out as a PDF.

    Raises:
        QalofError: Typst refuses the document, which no contents should be able to bring about.
    """
    import typst

    # its type hints do not know a mapping of files, which it takes
    set_pages: Any = typst.compile
    try:
        document: bytes = set_pages(sources_of(contents), format="pdf", font_paths=[str(FONTS)])
    except (RuntimeError, typst.TypstError) as error:
        raise QalofError(f"the PDF could not be set: {error}") from error
    return document


def sources_of(contents: Contents) -> dict[str, bytes]:
    """Return the files that Typst sets, by name: the template, its data, and the figures."""
    figures: dict[str, str] = {}
    data = _plain(contents, figures)
    return {
        "main": files(__package__).joinpath("report.typ").read_bytes(),
        "report.json": json.dumps(data, ensure_ascii=False).encode(),
        **{name: text.encode() for name, text in figures.items()},
    }


def _plain(contents: Contents, figures: dict[str, str]) -> dict[str, Any]:
    """Turn contents into what JSON holds, and put the figures that they need into ``figures``, by file name."""

    def blocks(given: Sequence[Block]) -> list[dict[str, Any]]:
        return [part for block in given for part in _parts(block, figures)]

    plain = asdict(contents)
    plain["answers"] = [asdict(each) | {"blocks": blocks(each.blocks)} for each in contents.answers]
    plain["sections"] = [asdict(each) | {"blocks": blocks(each.blocks)} for each in contents.sections]
    plain["references"] = [
        {"statements": [asdict(one) for one in said], "blocks": blocks([table])} for table, said in contents.references
    ]
    return plain


def _parts(block: Block, figures: dict[str, str]) -> list[dict[str, Any]]:
    """Return the parts in which a block is set; a function per kind, so a new kind of block is an error until it has
    one.
    """
    return _SETTERS[type(block)](block, figures)


def _table(table: Table, figures: dict[str, str]) -> list[dict[str, Any]]:
    rows, left_out = _ends(table.rows)
    groups = _columns(table.header, rows)
    parts = []
    for number, group in enumerate(groups, start=1):
        caption = table.caption if len(groups) == 1 else f"{table.caption} ({number} of {len(groups)})"
        cells = [[_cell(row[column]) for column in group] for row in rows]
        last = number == len(groups)
        parts.append(
            {
                "kind": "table",
                "caption": caption,
                "header": [table.header[column] for column in group],
                "rows": cells,
                "note": table.note if last else "",
                "left_out": left_out if last else 0,
                "before": len(rows) // 2 if left_out else -1,
            }
        )
    return parts


def _ends(rows: Sequence[Sequence[Cell]]) -> tuple[list[Sequence[Cell]], int]:
    if len(rows) <= MOST_ROWS:
        return list(rows), 0
    half = KEPT_ROWS // 2
    return [*rows[:half], *rows[-half:]], len(rows) - 2 * half


def _columns(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[list[int]]:
    """Divide the columns into groups that fit a line, each with the first column."""
    widths = [
        min(_WIDEST if column else _WIDEST_NAME, max([_word(name), *(len(row[column].text) for row in rows)])) + _GAP
        for column, name in enumerate(header)
    ]
    groups: list[list[int]] = [[0]]
    used = widths[0]
    for column in range(1, len(header)):
        if used + widths[column] > LINE and len(groups[-1]) > 1:
            groups.append([0])
            used = widths[0]
        groups[-1].append(column)
        used += widths[column]
    return groups


def _word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _cell(cell: Cell) -> dict[str, Any]:
    return {"text": cell.text, "heat": None if cell.heat is None else cell.percent}


def _plot(plot: Plot, figures: dict[str, str]) -> list[dict[str, Any]]:
    name = f"figure-{len(figures)}.svg"
    alt = ElementTree.fromstring(str(plot.svg)).attrib.get("aria-label", plot.caption)
    figures[name] = standing_alone(str(plot.svg))
    return [{"kind": "plot", "file": name, "alt": alt, "caption": plot.caption}]


def _examples(examples: Examples, figures: dict[str, str]) -> list[dict[str, Any]]:
    return [{"kind": "examples", **asdict(examples)}]


def _commands(commands: Commands, figures: dict[str, str]) -> list[dict[str, Any]]:
    return [{"kind": "commands", **asdict(commands)}]


_Setter = Callable[[Any, dict[str, str]], list[dict[str, Any]]]
_SETTERS: Mapping[type, _Setter] = {Table: _table, Plot: _plot, Examples: _examples, Commands: _commands}
