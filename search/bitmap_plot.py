"""Bitmaps as pictures: one panel per bitmap, blocks to the right, kinds of layer downwards, color by width.

Few bits are dark and many are light, on one scale for all panels and all pictures, so two runs can be compared.  A
weight in groups of its own size is hatched, more densely the smaller its groups are.  Each width is also written into
its cell while there is room, since color alone is not for every reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from typing import Literal

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from qalof.bitmap_map import block_map, maps_worth_showing, width_of
from qalof.layer_bits import AnyWidth, GroupedWidth, LayerBits, bits_of, width_order

MOST_PANELS = 12
"""The most bitmaps in one picture; of more, an evenly spread choice is drawn."""

_WRITTEN = 40
"""The most blocks whose cells show their widths."""
_PANEL_WIDTH = 7.0
_SCALE = ((2, 0.05), (3, 0.2), (4, 0.35), (5, 0.47), (6, 0.58), (8, 0.75), (16, 0.9), (32, 1.0))
"""The bits with their positions on the color map; other widths are interpolated."""

Layers = Mapping[str, LayerBits]


def color_of(width: AnyWidth) -> tuple[int, int, int]:
    """Return red, green and blue of a width, each from 0 to 255; a group size does not change the color."""
    bits = bits_of(width)
    place = _SCALE[-1][1]
    for (low, start), (high, end) in pairwise(_SCALE):
        if bits <= high:
            place = start + (end - start) * max(0, bits - low) / (high - low)
            break
    red, green, blue, _ = colormaps["viridis"](place)
    return round(255 * red), round(255 * green), round(255 * blue)


def ink_on(width: AnyWidth) -> Literal["black", "white"]:
    """Return the color of text that can be read on a width's color."""
    red, green, blue = color_of(width)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def draw_bitmaps(bitmaps: Mapping[str, Layers]) -> Figure:
    """Return a figure with one panel per bitmap, by title, and panels of activations and KV cache where they differ."""
    panels = [(title, bitmap, role) for title, bitmap in bitmaps.items() for role in maps_worth_showing(bitmap)]
    kinds = len(block_map(panels[0][1]).kinds)
    height = 0.7 + len(panels) * (0.5 + 0.2 * kinds)
    figure = Figure(figsize=(_PANEL_WIDTH, height), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for place, (title, bitmap, role) in zip(axes, panels, strict=True):
        _panel(place, bitmap, role, title if role == "weight" else f"{title}, {role}")
    widths = sorted({width_of(bits, role) for _, bitmap, role in panels for bits in bitmap.values()}, key=width_order)
    handles = [Patch(facecolor=_fraction(w), edgecolor="gray", hatch=hatch_of(w), label=str(w)) for w in widths]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(12, len(handles)), title="bits", frameon=False)
    return figure


def bitmaps_picture(bitmaps: Mapping[str, Layers], form: Literal["png", "svg"] = "png") -> bytes:
    """Return the figure as the content of a file."""
    figure, buffer = draw_bitmaps(bitmaps), BytesIO()
    (FigureCanvasSVG if form == "svg" else FigureCanvasAgg)(figure)
    figure.savefig(buffer, format=form, dpi=120, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()


def thinned(items: Sequence[str], most: int = MOST_PANELS) -> list[str]:
    """Return at most ``most`` items of a sequence, evenly spread, with both ends."""
    if len(items) <= most:
        return list(items)
    return [items[place] for place in sorted({round(n * (len(items) - 1) / (most - 1)) for n in range(most)})]


def _panel(axes: Axes, bitmap: Layers, role: str, title: str) -> None:
    found = block_map(bitmap, role)
    for row, widths in enumerate(found.widths):
        for column, bits in enumerate(widths):
            if bits is None:
                continue
            hatch, corner = hatch_of(bits), (column - 0.5, row - 0.5)
            edge = "gray" if hatch else "none"
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=_fraction(bits), edgecolor=edge, linewidth=0, hatch=hatch))
            if found.blocks <= _WRITTEN:
                text, size = str(bits).replace("g", "\ng"), 4.5 if isinstance(bits, GroupedWidth) else 5.5
                axes.text(
                    column, row, text, ha="center", va="center", fontsize=size, linespacing=0.9, color=ink_on(bits)
                )
    axes.set(xlim=(-0.5, found.blocks - 0.5), ylim=(len(found.kinds) - 0.5, -0.5))
    axes.set_yticks(range(len(found.kinds)), found.kinds, fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title, fontsize=8, loc="left")
    axes.grid(False)


def hatch_of(width: AnyWidth) -> str | None:
    """Return the hatching of a width: none without a group size, and more lines the smaller the groups are."""
    if not isinstance(width, GroupedWidth):
        return None
    return "/" * (2 if width.group_size > 64 else 3 if width.group_size > 32 else 4)


def _fraction(width: AnyWidth) -> tuple[float, float, float]:
    red, green, blue = color_of(width)
    return red / 255, green / 255, blue / 255
