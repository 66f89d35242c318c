"""The figure of training losses: one curve per bitmap, smoothed where there are many steps.

Cyclic precision training runs one width per step, so each of its curves has only the steps of its own width, and stays
comparable with itself: one line through all steps would show the width's course and not the training's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from orchestrate.document import formats
from orchestrate.document.blocks import Plot
from orchestrate.document.svg import GOLD, INK, SERIES, new_figure, styled, to_svg
from orchestrate.jobs.train.curves import OPTIMIZED, LossCurve

COLORS = (*SERIES, GOLD, INK)
STYLES = ("-", "--", ":", "-.")
MOST_CURVES, MOST_POINTS, FEW_STEPS = 12, 400, 30
DECADE = 10.0
"""The ratio of the highest to the lowest loss from which an axis is logarithmic."""


def loss_blocks(curves: Sequence[LossCurve], prefix: str, finished: bool) -> list[Plot]:
    """Make the plot with its caption; there is none where there are no losses."""
    drawn = curves[:MOST_CURVES]
    if not drawn:
        return []
    window = smoothing_window(max(len(curve.steps) for curve in drawn))
    parts = ["Training loss (cross entropy) of each bitmap at the steps that ran it"]
    if drawn[0].bitmap == OPTIMIZED:
        parts.append("the optimized loss is what gradients were taken of, distances to teachers or attacks included")
    if window > 1:
        parts.append(f"lines are running means over {window} of these steps, single steps are faint")
    if len(drawn) < len(curves):
        parts.append(f"{len(drawn)} of {len(curves)} bitmaps are drawn")
    if not finished:
        parts.append(f"so far, up to step {max(curve.steps[-1] for curve in curves):,}")
    return [Plot(_draw(drawn, window, f"{prefix}-loss"), "; ".join(parts), "loss")]


def smoothing_window(steps: int) -> int:
    """Return an odd number of steps to average over, about a twentieth of a curve; 1 for a short one."""
    return 1 if steps < FEW_STEPS else 2 * max(1, steps // 40) + 1


def smoothed(values: Sequence[float], window: int, logs: bool = False) -> list[float]:
    """Return a centered running mean, geometric for ``logs``; at the ends it is over as many values as there are."""
    data = np.log(values) if logs else np.asarray(values)
    ones = np.ones(min(window, 2 * len(data) - 1))
    total = np.convolve(data, ones)[len(ones) // 2 :][: len(data)]
    count = np.convolve(np.ones(len(data)), ones)[len(ones) // 2 :][: len(data)]
    means = total / count
    return [float(value) for value in (np.exp(means) if logs else means)]


def logarithmic(curves: Sequence[LossCurve]) -> bool:
    """Return whether all losses are positive and range over a decade or more."""
    values = [value for curve in curves for value in curve.values]
    return min(values) > 0 and max(values) / min(values) >= DECADE


def _draw(curves: Sequence[LossCurve], window: int, name: str) -> Markup:
    logs = logarithmic(curves)
    with styled():
        figure, (axes,) = new_figure(7.2, 3.4)
        for index, curve in enumerate(curves):
            color, style = COLORS[index % len(COLORS)], STYLES[index % len(STYLES)]
            few = np.unique(np.linspace(0, len(curve.steps) - 1, MOST_POINTS).round().astype(int))
            steps = [curve.steps[i] for i in few]
            if window > 1:
                axes.plot(steps, [curve.values[i] for i in few], color=color, alpha=0.25, linewidth=0.8)
            means = smoothed(curve.values, window, logs)
            marker = "o" if len(steps) == 1 else None
            label = formats.shorter(formats.bitmap_name(curve.bitmap), 24)
            axes.plot(steps, [means[i] for i in few], color=color, linestyle=style, marker=marker, label=label)
        if logs:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if _decades(curves) > 1.5 else (1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("Step")
        axes.set_ylabel("Training loss (nats)")
        figure.legend(loc="outside upper center", ncols=min(6, len(curves)))
        return to_svg(figure, name, _described(curves, window, logs))


def _decades(curves: Sequence[LossCurve]) -> float:
    values = [value for curve in curves for value in curve.values]
    return math.log10(max(values) / min(values))


def _described(curves: Sequence[LossCurve], window: int, logs: bool) -> str:
    parts = []
    for curve in curves:
        means = smoothed(curve.values, window, logs)
        first, least, last = map(formats.three_digits, (means[0], min(means), means[-1]))
        parts.append(
            f"{formats.bitmap_name(curve.bitmap)}: {first} at step {curve.steps[0]}, lowest {least}, "
            f"{last} at step {curve.steps[-1]}"
        )
    kind = "smoothed, " if window > 1 else ""
    axis = "on a logarithmic axis" if logs else "on a linear axis"
    return f"Training loss over steps, {kind}{axis}. {'; '.join(parts)}."
