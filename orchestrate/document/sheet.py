"""Tables for a terminal of any width: side by side where they fit, otherwise row by row, and never cut.

rich cuts what does not fit and ends it with dots, which takes away the digits and names that a reader looks for.  A
:class:`Sheet` is a table where all of it fits the width.  Where it does not, each row becomes a few lines: its name,
and then every value after its heading.  A long sheet shows its first and last rows and says where the others are.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

MOST_ROWS = 40
"""How many rows of a sheet are shown; of a longer one they are the first and the last."""

_UNBOUNDED = 1_000_000


@dataclass(frozen=True)
class Sheet:
    """A table as plain texts."""

    headings: Sequence[str]
    """The headings of the columns; the first column names the row and may have an empty heading."""
    rows: Sequence[Sequence[str]]
    """The rows, with one text per heading; an empty text is left out where rows stand by themselves."""
    title: str = ""
    """The text above the sheet."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """One line on a row, by the row's name, such as what an id stands for."""
    caption: Sequence[str] = ()
    """The lines below the sheet."""
    whole: str = ""
    """The file that holds all rows, for a sheet that does not show them all."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the sheet out for the console's width; rich calls this."""
        width = options.max_width
        shown, left_out = self._shown()
        table = self._table(shown)
        natural = Measurement.get(console, options.update(max_width=_UNBOUNDED), table).maximum
        if natural <= width:
            yield table
            notes = {row[0]: self.notes[row[0]] for row in shown if row[0] in self.notes}
            for name, note in notes.items():
                yield from wrapped(f"{name}: {note}", width)
        else:
            if self.title:
                yield from wrapped(self.title, width, style="italic")
            for row in shown:
                yield from self._record(row, width)
        if left_out:
            place = f"; all of them are in {self.whole}" if self.whole else ""
            yield from wrapped(f"{left_out:,} rows between them are not shown{place}", width)
        for line in self.caption:
            yield from wrapped(line, width)

    def _shown(self) -> tuple[list[Sequence[str]], int]:
        if len(self.rows) <= MOST_ROWS:
            return list(self.rows), 0
        half = MOST_ROWS // 2
        return [*self.rows[:half], *self.rows[-half:]], len(self.rows) - 2 * half

    def _table(self, rows: Sequence[Sequence[str]]) -> Table:
        table = Table(title=Text(self.title) if self.title else None, title_style="italic")
        for heading in self.headings:
            table.add_column(Text(heading), no_wrap=True)
        for row in rows:
            table.add_row(*map(Text, row))
        return table

    def _record(self, row: Sequence[str], width: int) -> Iterator[Text]:
        first = f"{self.headings[0]} {row[0]}".strip()
        yield from wrapped(f"{first}: {self.notes[row[0]]}" if row[0] in self.notes else first, width, style="bold")
        named = zip(self.headings[1:], row[1:], strict=True)
        values = " · ".join(f"{name} {' '.join(text.split())}" for name, text in named if text)
        yield from wrapped(values, width, indent="  ")


def wrapped(line: str, width: int, indent: str = "", style: str = "") -> Iterator[Text]:
    """Yield the parts of a line that fit ``width`` columns; those after the first stand two columns further in."""
    deeper = indent + "  "
    for part in textwrap.wrap(line, width, initial_indent=indent, subsequent_indent=deeper, break_on_hyphens=False):
        yield Text(part, style=style)
