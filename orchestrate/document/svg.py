"""Figures as inline SVG that takes its colors from the page.

Matplotlib writes the SVG: ``svg.fonttype: none`` leaves text as text (it can be searched and read out), and
``svg.hashsalt`` makes the identifiers that it refers to the same in every drawing of a figure, and different between
the figures of one page.  What it has no setting for is done on the parsed document: each color of :data:`COLORS`
becomes a variable of the style sheet, so one figure serves light mode, dark mode and print; and metadata and namespaces
go, because they name addresses, and a page that stands alone should have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#111213", "#616263", "#d1d2d3", "#fefdfc"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
GOLD = "#e69f00"
"""The colors of Okabe and Ito's palette, which color-blind readers can distinguish."""

COLORS = {
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
    """Set the page's style for what is drawn within, as a context."""
    return matplotlib.rc_context(_STYLE)


def new_figure(
    width: float, height: float, count: int = 1, downwards: Sequence[float] = (), **arguments: Any
) -> tuple[Figure, list[Axes]]:
    """Make a figure without pyplot, so no global state is touched; sizes are in inches.

    Its ``count`` axes stand side by side, or one below the other where ``downwards`` gives their heights.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    if downwards:
        axes = figure.subplots(count, 1, squeeze=False, height_ratios=list(downwards), **arguments)
        return figure, list(axes[:, 0])
    return figure, list(figure.subplots(1, count, squeeze=False, **arguments)[0])


def to_svg(figure: Figure, name: str, alt: str) -> Markup:
    """Write the figure as an ``<svg>`` element.

    Args:
        figure: a figure that was drawn in :func:`styled`.
        name: the base of the identifiers, unique in the page.
        alt: what the figure shows, for those who do not see it.
    """
    buffer = StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return inlined(buffer.getvalue(), alt)


def inlined(text: str, alt: str) -> Markup:
    """Turn Matplotlib's SVG document into an element of a page; see the module's docstring."""
    root = ElementTree.fromstring(text)
    view = root.attrib["viewBox"]
    width, height = (float(number) for number in view.split()[2:])
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) == "metadata" or child.find("{*}style") is not None:
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = _attributes(element)
    root.attrib = {
        "role": "img",
        "aria-label": alt,
        "viewBox": view,
        "width": f"{width:.0f}",
        "height": f"{height:.0f}",
        "preserveAspectRatio": "xMidYMid meet",
    }
    ElementTree.indent(root, "")
    # safe: the text of every label was escaped when it was written
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def standing_alone(svg: str) -> str:
    """Turn a figure of a page into a file: with a name space, a font, and colors in place of the page's variables."""
    root = ElementTree.fromstring(svg)
    root.attrib["xmlns"] = "http://www.w3.org/2000/svg"
    root.attrib["style"] = "font-family: DejaVu Sans, sans-serif"
    text = ElementTree.tostring(root, encoding="unicode")
    for color, variable in COLORS.items():
        text = text.replace(variable, color)
    return text


def _local(name: str) -> str:
    """Return a name without its namespace."""
    return name.rpartition("}")[2]


def _attributes(element: ElementTree.Element) -> dict[str, str]:
    """Adapt attributes to a page: colors from the style sheet, its font, and only identifiers that are used."""
    found = {_local(name): " ".join(value.split()) for name, value in element.attrib.items()}
    if element.tag == "g":
        found.pop("id", None)  # a group's is a counter, which every figure starts again, and nothing refers to it
    if found.get("transform", "").startswith("rotate(-0 "):
        del found["transform"]
    style = dict(part.split(": ", 1) for part in found.pop("style", "").split("; ") if part)
    style.pop("font-family", None)
    if found.get("fill", "").startswith("#"):  # every browser takes a variable in a style, but not in an attribute
        style["fill"] = found.pop("fill")
    if style:
        found["style"] = "; ".join(f"{key}: {COLORS.get(value, value)}" for key, value in style.items())
    return found
