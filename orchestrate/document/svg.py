"""Figures as inline SVG that takes its colours from the page.

Matplotlib writes the SVG; afterwards each colour of :data:`COLOURS` becomes a variable of the style sheet, so that one
figure serves light mode, dark mode and print.  Text stays text (it can be searched and read out).  Identifiers get
a prefix, since several figures share one document, and metadata and namespaces go: they name addresses,
and a page that stands alone should have none.
"""

from __future__ import annotations

import re
from html import escape
from io import StringIO
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#111213", "#616263", "#d1d2d3", "#fefdfc"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
GOLD = "#e69f00"
"""Of Okabe and Ito's palette, which colour-blind readers can tell apart."""

COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    PAPER: "var(--paper)",
    BLUE: "var(--blue)",
    ORANGE: "var(--orange)",
    GREEN: "var(--green)",
    PURPLE: "var(--purple)",
    GOLD: "var(--gold)",
}
SERIES = (BLUE, ORANGE, GREEN, PURPLE)
MARKERS = ("o", "s", "^", "D")
HATCHES = ("", "////", "\\\\\\\\", "xxxx")

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.size": 10.0,
    "axes.labelsize": 10.0,
    "axes.titlesize": 10.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "hatch.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 6.0,
    "errorbar.capsize": 2.5,
    "savefig.transparent": True,
}


def styled() -> Any:
    """The page's style for what is drawn within, as a context."""
    return matplotlib.rc_context(_STYLE)


def new_figure(width: float, height: float, columns: int = 1, **arguments: Any) -> tuple[Figure, list[Axes]]:
    """A figure of its own, without pyplot, so that no global state is touched; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False, **arguments)
    return figure, list(axes[0])


def to_svg(figure: Figure, name: str, alt: str) -> Markup:
    """The figure as an ``<svg>`` element.

    Args:
        figure: drawn in :func:`styled`.
        name: prefix of the identifiers; unique in the page.
        alt: what the figure shows, for those who do not see it.
    """
    buffer = StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return inlined(buffer.getvalue(), name, alt)


def inlined(text: str, name: str, alt: str) -> Markup:
    """Matplotlib's SVG document as an element of a page; see the module's docstring."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    head, rest = body.split(">", 1)
    view = re.search(r'viewBox="([\d. -]+)"', head)
    assert view is not None, "matplotlib writes a viewBox"
    width, height = (float(number) for number in view[1].split()[2:])
    # tags only: a label may say anything, and is left as it is
    rest = re.sub(r"<[^>]*>", lambda tag: _inlined_tag(tag[0], name), rest)
    rest = re.sub(r">\s+<", ">\n<", rest)
    start = (
        f'<svg role="img" aria-label="{escape(alt)}" viewBox="{view[1]}" '
        f'width="{width:.0f}" height="{height:.0f}" preserveAspectRatio="xMidYMid meet">'
    )
    # safe: matplotlib escapes all text that it writes, and the rest is its own
    return Markup(start + rest.strip())


def _inlined_tag(tag: str, name: str) -> str:
    for pattern, replacement in (
        (r'^<g id="[^"]*"', "<g"),
        (r'\bid="', f'id="{name}-'),
        (r' fill="(#[0-9a-f]{6})"', r' style="fill: \1"'),
        (r'\bxlink:href="#', f'href="#{name}-'),
        (r"url\(#", f"url(#{name}-"),
        (r" font-family: [^;\"]*;", ""),
        (r' transform="rotate\(-0 [^"]*"', ""),
        (r"\s+", " "),
    ):
        tag = re.sub(pattern, replacement, tag)
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: COLOURS.get(found[0], found[0]), tag)
