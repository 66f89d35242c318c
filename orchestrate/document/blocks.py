"""What a section of the page is made of: tables, figures and notes, as plain values that the template lays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup

LONG = 24
"""How many rows of a plain table are shown at once."""


@dataclass(frozen=True)
class Cell:
    """One cell: its ``text``, and what a pointer resting on it shows.

    ``heat`` says from 0 to 1 how strongly it is shaded; None leaves it unshaded.
    """

    text: str
    title: str = ""
    heat: float | None = None

    @property
    def percent(self) -> int:
        """The shade, in the form of the style sheet."""
        return 0 if self.heat is None else round(100 * min(1.0, max(0.0, self.heat)))


@dataclass(frozen=True)
class Table:
    """A table, whose ``rows`` begin with their own headings; the ``look`` ``heat`` has shaded cells, all centered."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    look: Literal["plain", "heat"] = "plain"

    @property
    def kind(self) -> str:
        """Which of the template's macros draws it."""
        return "table"

    @property
    def long(self) -> bool:
        """Whether it is folded away: a plot or a map above it shows the same at a glance."""
        return self.look == "plain" and len(self.rows) > LONG


@dataclass(frozen=True)
class Plot:
    """A figure; its text alternative is in the SVG."""

    svg: Markup
    caption: str

    @property
    def kind(self) -> str:
        """Which of the template's macros draws it."""
        return "plot"


@dataclass(frozen=True)
class Pair:
    """Two texts side by side, as an example."""

    label: str
    before: str
    after: str


@dataclass(frozen=True)
class Examples:
    """Pairs of texts, folded away."""

    title: str
    pairs: Sequence[Pair]

    @property
    def kind(self) -> str:
        """Which of the template's macros draws it."""
        return "examples"


Block = Table | Plot | Examples


@dataclass(frozen=True)
class Statement:
    """A sentence; ``caution`` is one that limits what may be concluded."""

    text: str
    caution: bool = False


@dataclass(frozen=True)
class Topic:
    """The sentences of the summary on one step."""

    name: str
    anchor: str
    statements: Sequence[Statement]


@dataclass(frozen=True)
class FileLink:
    """A file of the run directory."""

    href: str
    name: str
    holds: str


@dataclass(frozen=True)
class Section:
    """One step of the page; see ``page.html`` for how it is laid out."""

    number: int
    name: str
    command: str
    anchor: str
    state: str
    finished: bool
    seconds: str
    lead: str
    repeat: str | None
    settings: Sequence[tuple[str, str]]
    config: str
    blocks: Sequence[Block] = ()
    files: Sequence[FileLink] = field(default_factory=tuple)


def cells(*texts: str) -> list[Cell]:
    """Make plain cells of texts."""
    return [Cell(text) for text in texts]
