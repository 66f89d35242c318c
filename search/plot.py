"""The front as a picture: all points with their intervals, where steps join those of the front.

It is drawn on its own Figure, without pyplot, so no global backend is changed and no screen is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from search.objective import Objective
from search.point import Point

DOMINATED_COLOR, FRONT_COLOR = "#9aa5b1", "#c2410c"


def front_png(points: Sequence[Point], front: Sequence[Point], objectives: Sequence[Objective], title: str) -> bytes:
    """Return a PNG with the first objective upwards, and the second (or average bits) to the right.

    Args:
        points: all evaluated points.
        front: those among them that no other point dominates.
        objectives: the objectives of the search.
        title: the title above the picture.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    vertical = objectives[0]
    horizontal = objectives[1] if len(objectives) > 1 else Objective.parse("average_bits")
    front = sorted(front, key=lambda point: point.value(horizontal.name))
    others = [point for point in points if point not in front]
    _draw(axes, others, horizontal, vertical, DOMINATED_COLOR, f"dominated ({len(others)})")
    _draw(axes, front, horizontal, vertical, FRONT_COLOR, f"front ({len(front)})")
    if len(front) > 1:
        where: Literal["post", "pre"] = "post" if horizontal.direction == "min" else "pre"
        x, y = ([point.value(o.name) for point in front] for o in (horizontal, vertical))
        axes.step(x, y, where=where, color=FRONT_COLOR, linewidth=1, alpha=0.6)
    axes.set_xlabel(horizontal.metric.heading)
    axes.set_ylabel(vertical.metric.heading)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if axes.containers:
        axes.legend()
    buffer = BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _draw(
    axes: Axes, points: Sequence[Point], horizontal: Objective, vertical: Objective, color: str, label: str
) -> None:
    shown = [p for p in points if math.isfinite(p.value(horizontal.name)) and math.isfinite(p.value(vertical.name))]
    if not shown:
        return
    axes.errorbar(
        [point.value(horizontal.name) for point in shown],
        [point.value(vertical.name) for point in shown],
        xerr=_bars(shown, horizontal.name),
        yerr=_bars(shown, vertical.name),
        fmt="o",
        markersize=4,
        elinewidth=0.8,
        capsize=2,
        color=color,
        label=label,
    )


def _bars(points: Sequence[Point], name: str) -> list[list[float]]:
    intervals = [(point.value(name), point.metrics.get(name)) for point in points]
    below = [max(0.0, value - interval.low) if interval else 0.0 for value, interval in intervals]
    above = [max(0.0, interval.high - value) if interval else 0.0 for value, interval in intervals]
    return [below, above]
