"""Heat maps as figures: what a site loses by width, by block and kind of layer, or how attacks transfer.

Each panel has its columns to the right and its rows downwards; all panels share one scale, so they compare.  A table
with shaded cells was rejected for sites: at 210 of them it takes five pages, and a picture a third of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize

from orchestrate.document.formats import natural
from orchestrate.document.svg import new_figure, styled, to_svg
from qalof.bitmap import block_name

WRITTEN = 12
"""The most columns for which each cell shows its text."""
_WIDTH, _ROW, _LETTER = 7.2, 0.24, 0.075
_LIGHT = 0.55
"""The share of the scale from which text on a cell is white."""


@dataclass(frozen=True)
class Panel:
    """One map: ``values`` has a row per name of ``rows`` and in it one value per name of ``columns``, NaN for none."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]
    texts: Sequence[Sequence[str]] = ()
    """What the cells say, where there is room; empty for nothing."""


def heat_map(
    panels: Sequence[Panel], label: str, name: str, alt: str, most: float | None = None, decades: float | None = None
) -> Markup:
    """Draw panels one below the other.

    Args:
        panels: the maps, with at least one finite value between them.
        label: what the values are, with their unit.
        name: the base of the figure's identifiers.
        alt: what the figure shows, for those who do not see it.
        most: the value of the strongest color; None takes the largest value.
        decades: over how many powers of ten colors fade to nothing, for values that differ by orders of magnitude;
            None for colors in proportion.
    """
    largest = max(value for panel in panels for row in panel.values for value in row if math.isfinite(value))
    top = largest if most is None else most
    top = top if top > 0 else 1.0
    scale = Normalize(0.0, top, clip=True) if decades is None else LogNorm(top / 10**decades, top, clip=True)
    heights = [0.45 + _ROW * len(panel.rows) for panel in panels]
    height = sum(heights) + 1.0
    with styled():
        figure, axes = new_figure(_WIDTH, height, len(panels), downwards=heights)
        for place, panel in zip(axes, panels, strict=True):
            _draw(place, panel, scale)
        shown, gap = ScalarMappable(scale, "Blues"), 0.22 / height
        colors = figure.colorbar(shown, ax=axes, location="bottom", label=label, aspect=50, fraction=0.05, pad=gap)
        colors.outline.set_visible(False)
        return to_svg(figure, name, alt)


def _draw(axes: Axes, panel: Panel, scale: Normalize) -> None:
    values = np.array(panel.values, dtype=float)
    # a mesh is written as one path per cell: an image would be a bitmap in a page that is otherwise lines and text
    edges = [np.arange(count + 1) - 0.5 for count in (values.shape[1], values.shape[0])]
    axes.pcolormesh(*edges, np.maximum(values, scale.vmin or 0.0), norm=scale, cmap="Blues", linewidth=0)
    for (row, column), value in np.ndenumerate(values):
        if panel.texts and len(panel.columns) <= WRITTEN and math.isfinite(value):
            ink = "white" if value > 0 and scale(value) > _LIGHT else "black"
            axes.text(column, row, panel.texts[row][column], ha="center", va="center", fontsize=7, color=ink)
    axes.set(xlim=(-0.5, len(panel.columns) - 0.5), ylim=(len(panel.rows) - 0.5, -0.5))
    axes.set_yticks(range(len(panel.rows)), panel.rows, fontsize=8)
    every = _every(panel.columns)
    axes.set_xticks(range(0, len(panel.columns), every), panel.columns[::every], fontsize=8)
    axes.tick_params(length=0)
    axes.set_title(panel.title, fontsize=9, loc="left")
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)


def _every(columns: Sequence[str]) -> int:
    """Return how many columns lie from one that is named to the next, so names do not meet."""
    return max(1, math.ceil(len(columns) * (max(map(len, columns)) + 2) * _LETTER / (_WIDTH - 1.5)))


def by_block(values: Mapping[tuple[str, str], float]) -> tuple[list[str], list[str], list[list[float]]]:
    """Arrange values by block and kind of layer: the kinds as rows, the blocks as columns, NaN where there is none."""
    blocks = list(dict.fromkeys(sorted((block for block, _ in values), key=natural)))
    kinds = list(dict.fromkeys(kind for _, kind in values))
    return kinds, blocks, [[values.get((block, kind), math.nan) for block in blocks] for kind in kinds]


def sites_by_choice(
    values: Mapping[str, Mapping[str, float]], text: Callable[[float], str], titles: Mapping[str, str]
) -> list[Panel]:
    """Arrange what sites lose: one panel of blocks by kinds of layer per choice, or one of sites by choices.

    Args:
        values: what each site loses at each choice, such as a width.
        text: writes a value into its cell.
        titles: the heading of each choice's panel.
    """
    placed = {site: (block_name(site), kind_of(site)) for site in values}
    blocks = {block for block, _ in placed.values()}
    if len(blocks) < 2 or len({kind for _, kind in placed.values()}) < 2:
        rows = [[by_choice.get(choice, math.nan) for choice in titles] for by_choice in values.values()]
        return [Panel("", list(values), list(titles.values()), rows, _written(rows, text))]
    panels = []
    for choice, title in titles.items():
        kinds, names, rows = by_block(
            {placed[site]: by_choice[choice] for site, by_choice in values.items() if choice in by_choice}
        )
        panels.append(Panel(title, kinds, [name.rpartition(".")[2] for name in names], rows, _written(rows, text)))
    return panels


def _written(rows: Sequence[Sequence[float]], text: Callable[[float], str]) -> list[list[str]]:
    return [[text(value) if math.isfinite(value) else "" for value in row] for row in rows]


def kind_of(unit: str) -> str:
    """Return the kind of a site within its block, such as ``attn.c_attn``; a whole block has the kind ``block``."""
    block = block_name(unit)
    return unit.removeprefix(f"{block}.") if unit != block else "block"
