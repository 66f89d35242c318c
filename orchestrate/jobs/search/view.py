"""Tables and figures of ``search``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrate.document import formats
from orchestrate.document.blocks import Block, Cell, Plot, Table
from orchestrate.document.captions import PAIRED, UNPAIRED
from orchestrate.document.figures import FrontPlot, Series, front
from orchestrate.document.record import Record, Step
from orchestrate.document.svg import styled, to_svg
from orchestrate.jobs.search.findings import Searched, searched_of
from orchestrate.jobs.search.references import references
from orchestrate.jobs.shared.compare import is_shown, paired
from orchestrate.jobs.shared.findings import scored_of
from qalof.bitmap import FULL_PRECISION, Bitmap
from qalof.bitmap_names import short_name
from qalof.evaluation.result import Evaluation
from qalof.layer_bits import width_order
from qalof.statistics import Interval
from search.bitmap_plot import MOST_PANELS, draw_bitmaps
from search.point import Point

MOST_SITES = 64
"""The most sites for which a table lists each one's bits; of more, a picture shows them by blocks."""

MOST_COLUMNS = 16
"""The most bitmaps that the map of widths shows; a longer front is thinned evenly, and its ends are kept."""


def search_blocks(record: Record, step: Step, prefix: str) -> list[Block]:
    """Make the plane of quality and cost, the front's table, and its bitmaps site by site."""
    searched = searched_of(step)
    if searched is None:
        return []
    known = references(record, step)
    order = front_order(searched)
    if not order:  # no finite score: the summary says so
        return []
    svg = front(_front_plot(record, step, searched, known), f"{prefix}-front")
    return [
        Plot(
            svg,
            "Every evaluated bitmap; the front, numbered as in its table, and the uniform bitmaps with 95 % intervals",
            "front",
        ),
        _front_table(searched, order, known),
        *_width_map(searched, order, prefix),
        *_judged(searched),
    ]


def front_order(searched: Searched) -> list[int]:
    """Return the positions of the front's points in the result, from cheap to expensive; the page numbers them in this
    order.
    """
    on_front = {id(point) for point in searched.result.front_points}
    positions = [index for index, point in enumerate(searched.result.points) if id(point) in on_front]
    return sorted(positions, key=lambda index: searched.result.points[index].value(searched.price))


def full_precision(known: dict[Bitmap, Evaluation]) -> Evaluation | None:
    """Return the evaluation at the bitmap that leaves every site as it is, if there is one."""
    return next((e for bitmap, e in known.items() if all(b.weight == FULL_PRECISION for b in bitmap.values())), None)


def is_uniform(bitmap: Bitmap) -> bool:
    """Return whether every site has the same layer bits."""
    return len(set(bitmap.values())) == 1


def _front_plot(record: Record, step: Step, searched: Searched, known: dict[Bitmap, Evaluation]) -> FrontPlot:
    metric, price = searched.quality.name, searched.price
    points = searched.result.points
    order = front_order(searched)
    rest = [p for i, p in enumerate(points) if i not in order and math.isfinite(p.metrics[metric].estimate)]
    uniform = {
        formats.bitmap_name(str(p.bitmap)): (p.value(price), p.metrics[metric])
        for p in points
        if is_uniform(p.bitmap) and math.isfinite(p.metrics[metric].estimate)
    }
    full = full_precision(known)
    return FrontPlot(
        metric,
        price,
        _series(f"dominated ({len(rest)})", rest, metric, price),
        _numbered(_series(f"front ({len(order)})", [points[index] for index in order], metric, price)),
        uniform,
        {formats.bitmap_name(str(b)): (x, y) for b, (x, y, _) in outside(record, step, searched).items()},
        full.interval(metric) if full is not None and math.isfinite(full.metrics.get(metric, math.nan)) else None,
    )


def _series(name: str, points: Sequence[Point], metric: str, price: str) -> Series:
    return Series(name, [point.value(price) for point in points], [point.metrics[metric] for point in points])


def _numbered(series: Series) -> Series:
    """Label points with the numbers of the front's table, unless the labels would cover each other."""
    crowded = len(series.x) > MOST_COLUMNS
    return series if crowded else replace(series, labels=[str(number) for number in range(1, len(series.x) + 1)])


def outside(record: Record, step: Step, searched: Searched) -> dict[Bitmap, tuple[float, Interval, Evaluation]]:
    """Find cost, level and scores of the uniform bitmaps that training scored and the search did not.

    Only those within reach of the plane that is drawn count.
    """
    metric, price = searched.quality.name, searched.price
    found = (scored_of(one) for one in record.steps)
    costs = {point.bitmap: point for scored in found if scored for point in scored.points}
    evaluated = {point.bitmap for point in searched.result.points}
    most_expensive = max(point.value(price) for point in searched.result.points)
    return {
        bitmap: (costs[bitmap].value(price), evaluation.interval(metric), evaluation)
        for bitmap, evaluation in references(record, step).items()
        if is_uniform(bitmap)
        and bitmap not in evaluated
        and math.isfinite(evaluation.metrics.get(metric, math.nan))
        and costs[bitmap].value(price) <= 1.6 * most_expensive
    }


def _front_table(searched: Searched, order: Sequence[int], known: dict[Bitmap, Evaluation]) -> Table:
    points, metric = searched.result.points, searched.quality.name
    against, name = full_precision(known), "full precision"
    if against is None:
        best = max(order, key=lambda i: searched.quality.sign * points[i].value(metric))
        against, name = searched.evaluations[best], "the best"
    differences = [
        None if searched.evaluations[index] is against else paired(searched.evaluations[index], against, metric)
        for index in order
    ]
    compared = any(differences)
    metrics = list(points[order[0]].metrics)
    rows = [
        [
            Cell(f"№ {number}"),
            *(Cell(formats.level_with_interval(points[index].metrics[one], one)) for one in metrics),
            *((_difference(difference),) if compared else ()),
            Cell(formats.bits(points[index].cost.average_bits)),
            Cell(formats.size(points[index].cost.weight_bytes), f"{points[index].cost.weight_bytes:,} bytes"),
            Cell(formats.size(points[index].cost.kv_bytes_per_token)),
            Cell(short_name(points[index].bitmap), points[index].summary),
        ]
        for number, (index, difference) in enumerate(zip(order, differences, strict=True), start=1)
    ]
    extra = (f"{formats.capital(formats.name_of(metric))}, difference from {name}",) if compared else ()
    costs = ("Average bits", "Packed weights", "KV cache per token", "Bitmap")
    return Table(
        f"The front, from cheap to expensive: {formats.count_of(len(order), 'bitmap')} of {len(points)} evaluated, "
        f"on {formats.count_of(searched.examples, 'example')}",
        ["Front", *map(formats.heading, metrics), *extra, *costs],
        rows,
        PAIRED if compared else UNPAIRED,
    )


def _judged(searched: Searched) -> list[Block]:
    """Show the finalists of each budget on the examples that the search has not seen."""
    judgement = searched.judgement
    if judgement is None or not judgement["rows"]:
        return []
    metric, rows = judgement["metric"], judgement["rows"]
    budget = next(iter(rows[0]))

    def level(row: Mapping[str, Any], name: str) -> Cell:
        return Cell(formats.level_with_interval(Interval.from_columns(row, name), metric))

    cells = [
        [
            Cell(formats.bits(row[budget]) if budget == "average_bits" else formats.cost(row[budget], budget)),
            Cell(row["mixed"]),
            level(row, metric),
            Cell(row["uniform"]),
            level(row, f"uniform_{metric}"),
            _difference(Interval.from_columns(row, "gain")),
        ]
        for row in rows
    ]
    unseen = formats.count_of(judgement["examples"], "example")
    headings = [formats.heading(budget), "Mixed", formats.heading(metric), "Uniform", formats.heading(metric), "Gain"]
    return [Table(f"The finalists of each budget on {unseen} that the search has not seen", headings, cells, PAIRED)]


def _difference(interval: Interval | None) -> Cell:
    if interval is None:
        return Cell(formats.DASH)
    text = formats.difference(interval)
    return Cell(text if is_shown(interval) or interval.low == interval.high else f"{text} (not shown)")


def _width_map(searched: Searched, order: Sequence[int], prefix: str) -> list[Block]:
    """Show a picture of the front's bitmaps, and a table of sites for a model that has few."""
    large = len(searched.result.points[order[0]].bitmap) > MOST_SITES
    chosen = thinned(order, MOST_PANELS if large else MOST_COLUMNS)
    points = [searched.result.points[order[place]] for place in chosen]
    numbered = {f"№ {place + 1}": point for place, point in zip(chosen, points, strict=True)}
    kept = list(numbered)
    picture = _picture({kept[place]: numbered[kept[place]] for place in thinned(kept, MOST_PANELS)}, prefix)
    if large:
        return [picture]
    bitmaps = [point.bitmap for point in points]
    widths = sorted({bits.weight_width for bitmap in bitmaps for bits in bitmap.values()}, key=width_order)
    shade = {width: 0.0 if len(widths) == 1 else 1 - rank / (len(widths) - 1) for rank, width in enumerate(widths)}
    rows = [
        [Cell(site), *(Cell(str(bitmap[site]), heat=shade[bitmap[site].weight_width]) for bitmap in bitmaps)]
        for site in bitmaps[0].sites
    ]
    left_out = f" {len(chosen)} of the front's {len(order)} are shown." if len(chosen) < len(order) else ""
    return [
        picture,
        Table(
            "Bits of each site in the front's bitmaps, from cheap to expensive",
            ["Site", *(f"№ {place + 1}" for place in chosen)],
            rows,
            f"One number: weights, activations and cache alike. The stronger the shade, the fewer bits.{left_out}",
            look="heat",
        ),
    ]


def _picture(points: Mapping[str, Point], prefix: str) -> Plot:
    titled = {f"{number}, {short_name(one.bitmap)}: {one.summary}": one.bitmap for number, one in points.items()}
    with styled():
        svg = to_svg(draw_bitmaps(titled), f"{prefix}-bitmaps", "; ".join(titled))
    return Plot(
        svg,
        "Bits by kind of layer and block, of bitmaps of the front from cheap to expensive; darker is fewer",
        "bitmaps",
    )


def thinned(items: Sequence[Any], most: int) -> list[int]:
    """Choose at most ``most`` of the items, evenly spread, both ends included."""
    if len(items) <= most:
        return list(range(len(items)))
    return sorted({round(step * (len(items) - 1) / (most - 1)) for step in range(most)})
