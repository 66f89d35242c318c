"""What a section of the page is made of: tables, figures and notes, as plain values that the template lays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup

LONG = 24
"""Rows of a plain table that are shown without being asked for."""


@dataclass(frozen=True)
class Cell:
    """One cell: ``text``, and what a pointer resting on it shows.

    ``heat``: from 0 to 1, how strongly it is shaded; None for not at all.
    """

    text: str
    title: str = ""
    heat: float | None = None

    @property
    def percent(self) -> int:
        """The shade, as the style sheet takes it."""
        return 0 if self.heat is None else round(100 * min(1.0, max(0.0, self.heat)))


@dataclass(frozen=True)
class Table:
    """``rows`` begin with the row's own heading; ``look``: ``heat`` for shaded cells, all in the middle."""

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
    """Two texts beside each other, as an example."""

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
    """What the summary says of one step."""

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
    """Plain cells."""
    return [Cell(text) for text in texts]
