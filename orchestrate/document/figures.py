"""The page's figures; each says in its text alternative what it shows, and distinguishes series by shape or hatch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from orchestrate.document import formats
from orchestrate.document.svg import (
    BLUE,
    GRID,
    HATCHES,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    PAPER,
    SERIES,
    new_figure,
    styled,
    to_svg,
)
from qalof.metrics import is_percent
from qalof.statistics import Interval


@dataclass(frozen=True)
class Series:
    """Points (x, interval) with a name; ``labels`` has one per point, drawn next to it, or is empty."""

    name: str
    x: Sequence[float]
    y: Sequence[Interval]
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Bars:
    """One series of bars: an interval for each place on the axis, or None for no bar."""

    name: str
    values: Sequence[Interval | None]


def metric_by_bits(series: Sequence[Series], metric: str, name: str) -> Markup:
    """Draw a metric with intervals over average bits on a logarithmic axis, with one line per model."""
    alt = "; ".join(
        f"{one.name}: " + ", ".join(f"{formats.in_prose(y, metric)} at {x:g} bits" for x, y in _pairs(one))
        for one in series
    )
    with styled():
        figure, (axes,) = new_figure(7.2, 3.4)
        for index, one in enumerate(series):
            # series at the same widths would cover each other's bars
            dodge = 2 ** (0.045 * (index - (len(series) - 1) / 2))
            order = sorted(range(len(one.x)), key=lambda i, one=one: one.x[i])  # type: ignore[misc]
            x, y = [one.x[i] * dodge for i in order], [one.y[i] for i in order]
            axes.errorbar(
                x,
                [interval.estimate for interval in y],
                yerr=_bars(y),
                color=SERIES[index % len(SERIES)],
                marker=MARKERS[index % len(MARKERS)],
                linestyle=("-", "--", ":", "-.")[index % 4],
                label=one.name,
                elinewidth=1.4,
            )
            for i, place in zip(order, x, strict=True):
                if one.labels and one.labels[i]:
                    _write_next_to(axes, one.labels[i], place, one.y[i].estimate)
        _bits_axis(axes, [x for one in series for x in one.x])
        axes.set_ylabel(formats.heading(metric))
        _within_percent(axes, metric)
        if len(series) > 1:
            figure.legend(loc="outside upper center", ncols=len(series))
        return to_svg(figure, name, f"{formats.name_of(metric)} over average bits. {alt}.")


def ranking(
    units: Sequence[str], drops: Sequence[Interval], kinds: Sequence[str], metric: str, title: str, name: str
) -> Markup:
    """Draw horizontal bars of drops, the most sensitive unit at the top, colored and hatched by kind of site."""
    known = sorted(set(kinds))
    with styled():
        figure, (axes,) = new_figure(7.2, 1.0 + 0.23 * len(units))
        axes.grid(False, axis="y")
        for index, kind in enumerate(known):
            rows = [row for row, one in enumerate(kinds) if one == kind]
            axes.barh(
                rows,
                [drops[row].estimate for row in rows],
                xerr=_bars([drops[row] for row in rows]),
                height=0.72,
                color=SERIES[index % len(SERIES)],
                hatch=HATCHES[index % len(HATCHES)],
                edgecolor=PAPER,
                linewidth=0.6,
                error_kw={"ecolor": INK, "elinewidth": 1.0, "capsize": 2},
                label=kind,
            )
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.set_yticks(range(len(units)), units)
        axes.set_ylim(-0.7, len(units) - 0.3)
        unit = " (points)" if is_percent(metric) else ""
        what = formats.capital(formats.worsening(metric))
        axes.set_xlabel(f"{what}{unit} when this one alone is reduced")
        if len(known) > 1:
            axes.legend(loc="lower right")
        pairs = list(zip(units, drops, strict=True))
        shown = ", ".join(f"{unit} {formats.difference(drop)}" for unit, drop in pairs[::-1])
        return to_svg(figure, name, f"{title}, most sensitive first: {shown}.")


@dataclass(frozen=True)
class FrontPlot:
    """What :func:`front` draws; ``uniform`` bitmaps have labels, and ``full`` is the level of full precision, if
    known.
    """

    metric: str
    price: str
    dominated: Series
    front: Series
    uniform: Mapping[str, tuple[float, Interval]]
    reference: Mapping[str, tuple[float, Interval]]
    full: Interval | None


def front(plot: FrontPlot, name: str) -> Markup:
    """Draw all evaluated bitmaps, the front with intervals and the uniform bitmaps, over the cost."""
    uniform, reference = list(plot.uniform.values()), list(plot.reference.values())
    most_expensive = max([*plot.front.x, *plot.dominated.x, *(x for x, _ in (*uniform, *reference))], default=1.0)
    factor, label = formats.axis(plot.price, most_expensive)
    with styled():
        figure, (axes,) = new_figure(7.2, 4.2)
        if plot.full is not None:
            axes.axhspan(plot.full.low, plot.full.high, color=GRID, alpha=0.45, linewidth=0)
            axes.axhline(plot.full.estimate, color=MUTED, linestyle="--", linewidth=1.2, label="full precision")
        if plot.dominated.x:
            x, y = [value / factor for value in plot.dominated.x], [interval.estimate for interval in plot.dominated.y]
            axes.scatter(x, y, s=18, color=MUTED, marker="x", linewidths=1, label=plot.dominated.name)
        _front_line(axes, plot.front, factor)
        for kind, points, face in (("searched", plot.uniform, ORANGE), ("from training", plot.reference, PAPER)):
            for index, (bitmap, (place, interval)) in enumerate(points.items()):
                axes.errorbar(
                    [place / factor], [interval.estimate], yerr=_bars([interval]), fmt="D", color=ORANGE,
                    markerfacecolor=face, markersize=7, elinewidth=1.2, zorder=4,
                    label=f"uniform, {kind}" if not index else None,
                )  # fmt: skip
                _write_next_to(axes, bitmap, place / factor, interval.estimate)
        axes.set_xlabel(label)
        axes.set_ylabel(formats.heading(plot.metric))
        axes.margins(x=0.07)
        _within_percent(axes, plot.metric)
        figure.legend(loc="outside upper center", ncols=3)
        return to_svg(figure, name, _describe(plot))


def _front_line(axes: Axes, series: Series, factor: float) -> None:
    order = sorted(range(len(series.x)), key=lambda i: series.x[i])
    x, y = [series.x[i] / factor for i in order], [series.y[i] for i in order]
    estimates = [interval.estimate for interval in y]
    if len(x) > 1:
        axes.step(x, estimates, where="post", color=BLUE, linewidth=1.0)
    axes.errorbar(x, estimates, yerr=_bars(y), fmt="o", color=BLUE, elinewidth=1.0, label=series.name, zorder=3)
    for i, place in zip(order, x, strict=True):
        if series.labels:
            _write_next_to(axes, series.labels[i], place, series.y[i].estimate, below=True)


def _describe(plot: FrontPlot) -> str:
    parts = [
        f"{formats.in_prose(y, plot.metric)} at {formats.cost(x, plot.price)}"
        for x, y in sorted(_pairs(plot.front), key=lambda pair: pair[0])
    ]
    uniform = [
        f"{label} {formats.in_prose(y, plot.metric)} at {formats.cost(x, plot.price)}"
        for label, (x, y) in (*plot.uniform.items(), *plot.reference.items())
    ]
    text = f"{formats.name_of(plot.metric)} over {formats.name_of(plot.price)}; front: {', '.join(parts)}."
    return f"{text} Uniform bitmaps: {', '.join(uniform)}." if uniform else text


def grouped_bars(
    places: Sequence[str], groups: Sequence[Bars], label: str, name: str, alt: str, height: float = 3.4
) -> Markup:
    """Draw bars in groups with intervals, in percent; intervals are of shares in [0, 1]."""
    width = 0.8 / len(groups)
    with styled():
        figure, (axes,) = new_figure(7.2, height)
        axes.grid(False, axis="x")
        for index, bars in enumerate(groups):
            known = [(place, value) for place, value in enumerate(bars.values) if value is not None]
            values = [Interval(*(100 * v for v in (i.estimate, i.low, i.high))) for _, i in known]
            axes.bar(
                [place + (index - (len(groups) - 1) / 2) * width for place, _ in known],
                [value.estimate for value in values],
                width * 0.92,
                yerr=_bars(values),
                color=SERIES[index % len(SERIES)],
                hatch=HATCHES[index % len(HATCHES)],
                edgecolor=PAPER,
                linewidth=0.6,
                error_kw={"ecolor": INK, "elinewidth": 1.1, "capsize": 2.5},
                label=bars.name,
            )
        axes.set_xticks(range(len(places)), places)
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(0, 105)
        axes.set_ylabel(label)
        if len(groups) > 1:
            figure.legend(loc="outside upper center", ncols=len(groups))
        return to_svg(figure, name, alt)


def _bits_axis(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    ticks = [bits for bits in (2, 3, 4, 5, 6, 7, 8, 12, 16, 32) if min(values) <= bits <= max(values)]
    axes.xaxis.set_major_locator(FixedLocator(ticks or sorted(set(values))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(min(values) / 1.15, max(values) * 1.15)
    axes.set_xlabel("Average bits per weight (32: full precision)")


def _within_percent(axes: Axes, metric: str) -> None:
    """Leave no room above 100 % and below 0 %, except for a marker's edge."""
    if is_percent(metric):
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -1.5), min(high, 101.5))


def _write_next_to(axes: Axes, text: str, x: float, y: float, below: bool = False) -> None:
    offset = (5, -11) if below else (8, -3)
    behind = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}  # lines end at the label
    size = 8 if below else 9
    axes.annotate(text, (x, y), xytext=offset, textcoords="offset points", fontsize=size, color=INK, bbox=behind)


def _bars(values: Sequence[Interval]) -> list[list[float]]:
    """Find the distances down and up, in matplotlib's form; 0 where a bootstrap's bound lies across its estimate."""
    below = [max(0.0, v.estimate - v.low) if math.isfinite(v.estimate) else 0.0 for v in values]
    above = [max(0.0, v.high - v.estimate) if math.isfinite(v.estimate) else 0.0 for v in values]
    return [below, above]


def _pairs(series: Series) -> list[tuple[float, Interval]]:
    return list(zip(series.x, series.y, strict=True))
