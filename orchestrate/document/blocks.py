"""What a report is made of: tables, figures and notes, as plain values that the page and the PDF each lay out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from markupsafe import Markup

LONG, LONG_MAP = 24, 64
"""How many rows of a plain table, and of a shaded one, are shown at once."""


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

    kind: ClassVar[str] = "table"
    """The name of the macro that draws it in the page's template."""

    @property
    def long(self) -> bool:
        """Whether it is folded away: a plot or a map above it shows the same at a glance."""
        return len(self.rows) > (LONG if self.look == "plain" else LONG_MAP)


@dataclass(frozen=True)
class Plot:
    """A figure; its text alternative is in the SVG.

    ``name`` says what it shows, such as ``front``: answers choose figures by it, and it names the figure's file among
    a run's artifacts.
    """

    svg: Markup
    caption: str
    name: str

    kind: ClassVar[str] = "plot"
    """The name of the macro that draws it in the page's template."""


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

    kind: ClassVar[str] = "examples"
    """The name of the macro that draws it in the page's template."""


@dataclass(frozen=True)
class Commands:
    """The command lines that make what stands above them."""

    label: str
    lines: Sequence[str]

    kind: ClassVar[str] = "commands"
    """The name of the macro that draws it in the page's template."""


Block = Table | Plot | Examples | Commands


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
class Answer:
    """The answer to one of the brief's questions.

    ``asked`` is the question, ``step`` that of the brief.  ``measured`` says whether a run given to the report bears
    on it; otherwise the ``statements`` say what was not run, and ``blocks`` hold the command that would.
    """

    step: str
    asked: str
    anchor: str
    measured: bool
    statements: Sequence[Statement]
    blocks: Sequence[Block] = ()


@dataclass(frozen=True)
class FileLink:
    """A file of the run directory."""

    href: str
    name: str
    holds: str


@dataclass(frozen=True)
class Section:
    """One step of the report; see ``page.html`` for how it is laid out.

    ``elsewhere`` has the anchors of the answers that show its other figures, each with what they are.
    """

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
    elsewhere: Sequence[tuple[str, str]] = ()


def cells(*texts: str) -> list[Cell]:
    """Make plain cells of texts."""
    return [Cell(text) for text in texts]
