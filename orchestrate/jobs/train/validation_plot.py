"""Validation curves: one line per bitmap, over the steps after which it was scored, as a figure and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from orchestrate.document import formats
from orchestrate.document.blocks import Block, Plot
from orchestrate.document.svg import MARKERS, new_figure, styled, to_svg
from orchestrate.jobs.train.curves import LossCurve
from orchestrate.jobs.train.loss_plot import COLORS, MOST_CURVES, STYLES
from orchestrate.jobs.train.validation import Validation
from qalof.files import write_bytes
from qalof.metrics import PRINCIPAL, described

PANELS = 2
"""The most metrics that are drawn, side by side."""


def validation_blocks(validation: Sequence[Validation], prefix: str, finished: bool) -> list[Block]:
    """Make the plot with its caption; there is none where nothing was scored."""
    drawn = {metric: curves_in(validation, metric) for metric in drawn_metrics(validation)}
    drawn = {metric: curves for metric, curves in drawn.items() if curves}
    if not drawn:
        return []
    names = formats.listed([formats.capital(formats.name_of(metric)) if at == 0 else formats.name_of(metric)
                            for at, metric in enumerate(drawn)])  # fmt: skip
    caption = (
        f"{names} of each bitmap in the middle of training, on the first "
        f"{formats.count_of(validation[-1].examples, 'validation example')}"
    )
    if not finished:
        caption += f"; so far, up to step {validation[-1].step:,}"
    with styled():
        figure, axes = new_figure(7.2, 3.2, len(drawn))
        for place, (metric, curves) in zip(axes, drawn.items(), strict=True):
            draw(place, curves, metric)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(6, len(labels)))
        svg: Markup = to_svg(figure, f"{prefix}-validation", _described(drawn))
    return [Plot(svg, caption, "validation")]


def write_picture(path: Path, validation: Sequence[Validation]) -> bool:
    """Draw the curves into a PNG file; nothing is written where there are none, and False is returned."""
    drawn = [(metric, curves) for metric in drawn_metrics(validation) if (curves := curves_in(validation, metric))]
    if not drawn:
        return False
    figure, axes = new_figure(4.2 * len(drawn), 3.6, len(drawn))
    for place, (metric, curves) in zip(axes, drawn, strict=True):
        draw(place, curves, metric)
        place.grid(alpha=0.3)
        place.legend()
    buffer = BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    write_bytes(path, buffer.getvalue())
    return True


def drawn_metrics(validation: Sequence[Validation]) -> list[str]:
    """Choose what is drawn: the share of right answers and the loss, as far as the task has them."""
    names = list(dict.fromkeys(name for each in validation for scores in each.scores.values() for name in scores))
    known = [name for name in names if name in PRINCIPAL]
    return (sorted(known, key=PRINCIPAL.index) or names)[:PANELS]


def curves_in(validation: Sequence[Validation], metric: str) -> list[LossCurve]:
    """Make a curve of a metric per bitmap, of its finite values, in the order in which bitmaps are scored."""
    bitmaps = list(dict.fromkeys(bitmap for each in validation for bitmap in each.scores))
    curves = []
    for bitmap in bitmaps:
        known = [(each.step, each.scores.get(bitmap, {}).get(metric)) for each in validation]
        points = [(step, value) for step, value in known if value is not None]
        if points:
            curves.append(LossCurve(bitmap, tuple(step for step, _ in points), tuple(value for _, value in points)))
    return curves[:MOST_CURVES]


def draw(axes: Axes, curves: Sequence[LossCurve], metric: str) -> None:
    """Draw a metric's curves."""
    for index, curve in enumerate(curves):
        label = formats.shorter(formats.bitmap_name(curve.bitmap), 24)
        axes.plot(
            curve.steps, curve.values, label=label, color=COLORS[index % len(COLORS)],
            linestyle=STYLES[index % len(STYLES)], marker=MARKERS[index % len(MARKERS)], markersize=4,
        )  # fmt: skip
    axes.set_xlabel("Step")
    axes.set_ylabel(formats.heading(metric))


def _described(drawn: dict[str, list[LossCurve]]) -> str:
    parts = []
    for metric, curves in drawn.items():
        best = max if described(metric).direction == "max" else min
        for curve in curves:
            first, top, last = map(formats.three_digits, (curve.values[0], best(curve.values), curve.values[-1]))
            parts.append(
                f"{formats.name_of(metric)} at {formats.bitmap_name(curve.bitmap)}: {first} at step {curve.steps[0]}, "
                f"best {top}, {last} at step {curve.steps[-1]}"
            )
    return f"Validation scores over steps. {'; '.join(parts)}."
