"""The figures and tables of a report on scores at bitmaps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrate.document import formats
from orchestrate.document.blocks import Block, Cell, Plot, Table
from orchestrate.document.captions import PAIRED, UNPAIRED
from orchestrate.document.figures import Series, metric_by_bits
from orchestrate.document.record import Record, Step
from orchestrate.jobs.shared.compare import Comparison, between_bitmaps, between_models, comparable_models
from orchestrate.jobs.shared.findings import Scored, scored_of
from qalof.bitmap_names import short_name
from search.result import Point


def score_blocks(record: Record, step: Step, prefix: str) -> list[Block]:
    """Draw the metric over bits along with earlier models on the same examples, and make the tables."""
    scored = scored_of(step)
    if scored is None:
        return []
    others = [other for other in comparable_models(record, step) if _metric_of(other) == scored.metric]
    shown = [(one.name, scored_of(one)) for one in (step, *others[:3])]
    series = [_series(name, found) for name, found in shown if found is not None]
    caption = f"{formats.heading(scored.metric)} by average bits, with 95 % intervals"
    blocks: list[Block] = []
    if drawn := [one for one in series if one.x]:
        blocks.append(
            Plot(
                metric_by_bits(drawn, scored.metric, f"{prefix}-bits"), caption + _on_same_examples(others[:3]), "bits"
            )
        )
    blocks.append(_score_table(step.name, scored))
    for other in others:
        compared = between_models(step, other)
        if compared:
            blocks.append(_model_table(step, other, compared))
    return blocks


def _metric_of(step: Step) -> str | None:
    scored = scored_of(step)
    return scored.metric if scored else None


def _points(step: Step) -> Sequence[Point]:
    scored = scored_of(step)
    return scored.points if scored else ()


def _on_same_examples(others: Sequence[Step]) -> str:
    return f"; {formats.listed([other.name for other in others])} on the same examples" if others else ""


def _series(name: str, scored: Scored) -> Series:
    """Take the points that have a finite score, which alone can be drawn."""
    points = [point for point in scored.points if math.isfinite(point.metrics[scored.metric].estimate)]
    labels = ["" if str(point.bitmap).isdigit() else short_name(point.bitmap) for point in points]
    return Series(
        name,
        [point.cost.average_bits for point in points],
        [point.metrics[scored.metric] for point in points],
        labels,
    )


def _score_table(name: str, scored: Scored) -> Table:
    metrics = list(scored.points[0].metrics)
    compared = {one.bitmap: one for one in between_bitmaps(scored, scored.metric)}
    top = formats.bitmap_name(str(scored.points[scored.reference].bitmap))
    rows = []
    for point in scored.points:
        bitmap = str(point.bitmap)
        rows.append(
            [
                Cell(formats.bitmap_heading(bitmap), bitmap),
                *(Cell(formats.level_with_interval(point.metrics[metric], metric)) for metric in metrics),
                *((_difference_cell(compared.get(bitmap)),) if compared else ()),
                Cell(formats.bits(point.cost.average_bits)),
                Cell(formats.size(point.cost.weight_bytes), f"{point.cost.weight_bytes:,} bytes"),
                Cell(formats.size(point.cost.kv_bytes_per_token), f"{point.cost.kv_bytes_per_token:,} bytes"),
            ]
        )
    against = (f"{formats.capital(formats.name_of(scored.metric))}, difference from {top}",) if compared else ()
    return Table(
        f"{name} at each bitmap, on {formats.count_of(scored.points[0].examples, 'example')}",
        ["Bitmap", *map(formats.heading, metrics), *against, "Average bits", "Packed weights", "KV cache per token"],
        rows,
        PAIRED if compared else UNPAIRED,
    )


def _difference_cell(comparison: Comparison | None) -> Cell:
    if comparison is None:
        return Cell(formats.DASH)
    text = formats.difference(comparison.difference)
    alike = comparison.difference.low == comparison.difference.high
    return Cell(text if comparison.shown or alike else f"{text} (not shown)")


def _model_table(step: Step, other: Step, compared: Sequence[Comparison]) -> Table:
    later, earlier = ({str(point.bitmap): point for point in _points(one)} for one in (step, other))
    metric = compared[0].metric
    rows = [
        [
            Cell(formats.bitmap_heading(one.bitmap), one.bitmap),
            Cell(formats.level_with_interval(later[one.bitmap].metrics[metric], metric)),
            Cell(formats.level_with_interval(earlier[one.bitmap].metrics[metric], metric)),
            Cell(formats.difference(one.difference)),
            Cell(verdict(one)),
        ]
        for one in compared
    ]
    return Table(
        f"{step.name} against {other.name}, {formats.name_of(metric)} on the same examples",
        ["Bitmap", step.name, other.name, "Difference", "Reads as"],
        rows,
        PAIRED,
    )


def verdict(comparison: Comparison) -> str:
    """Say what a paired difference shows."""
    if not comparison.shown:
        return "no difference shown"
    return f"{comparison.after if comparison.difference.estimate > 0 else comparison.before} higher"
