"""Tables and figures of ``train``, ``evaluate`` and ``sensitivity``."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrate.report import formats
from orchestrate.report.blocks import Block, Cell, Plot, Table, cells
from orchestrate.report.compare import Comparison, between_bitmaps, between_models, comparable_models
from orchestrate.report.findings import Drop, Ranked, Scored
from orchestrate.report.output_errors import OutputErrors, error_blocks
from orchestrate.report.plots import Series, metric_by_bits, ranking
from orchestrate.report.read import Record, Step
from qalof.bitmap import block_name
from qalof.bitmap_names import short_name

PAIRED = (
    "Differences are paired over the same examples. Brackets: 95 % bootstrap intervals over examples, not corrected "
    "for how many there are; where one holds zero, no difference is shown."
)
UNPAIRED = "Brackets: 95 % bootstrap intervals over examples."


def score_blocks(record: Record, step: Step, prefix: str) -> list[Block]:
    """Metric over bits, beside earlier models on the same examples; the table; the comparisons."""
    scored = step.scored
    if scored is None:
        return []
    others = [other for other in comparable_models(record, step) if _metric_of(other) == scored.metric]
    series = [_series(one.name, one.scored) for one in (step, *others[:3]) if one.scored is not None]
    caption = f"{formats.heading(scored.metric)} by average bits, with 95 % intervals"
    blocks: list[Block] = []
    if drawn := [one for one in series if one.x]:
        blocks.append(Plot(metric_by_bits(drawn, scored.metric, f"{prefix}-bits"), caption + _beside(others[:3])))
    blocks.append(_score_table(step.name, scored))
    for other in others:
        compared = between_models(step, other)
        if compared:
            blocks.append(_model_table(step, other, compared))
    return blocks


def _metric_of(step: Step) -> str | None:
    return step.scored.metric if step.scored else None


def _beside(others: Sequence[Step]) -> str:
    return f"; {formats.listed([other.name for other in others])} on the same examples" if others else ""


def _series(name: str, scored: Scored) -> Series:
    """What can be drawn: the points with a finite score."""
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
                Cell(f"{point.cost.average_bits:.2f}"),
                Cell(formats.size(point.cost.weight_bytes), f"{point.cost.weight_bytes:,} bytes"),
                Cell(formats.size(point.cost.kv_bytes_per_token), f"{point.cost.kv_bytes_per_token:,} bytes"),
            ]
        )
    against = (f"{formats.capital(formats.name_of(scored.metric))}, difference from {top}",) if compared else ()
    return Table(
        f"{name} at each bitmap, on {formats.count_of(scored.points[0].examples, 'example')}",
        ["Bitmap", *map(formats.heading, metrics), *against, "Average bits", "Packed weights", "KV cache a token"],
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
    later = {str(point.bitmap): point for point in step.scored.points} if step.scored else {}
    earlier = {str(point.bitmap): point for point in other.scored.points} if other.scored else {}
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
    """What a paired difference says."""
    if not comparison.shown:
        return "no difference shown"
    return f"{comparison.after if comparison.difference.estimate > 0 else comparison.before} higher"


def ranking_blocks(step: Step, prefix: str) -> list[Block]:
    """A ranking and a map of blocks for each width that units were lowered to, and the table."""
    if isinstance(step.findings, OutputErrors):
        return error_blocks(step.findings)
    ranked = step.ranked
    if ranked is None:
        return []
    blocks: list[Block] = []
    for number, bits in enumerate(dict.fromkeys(drop.bits for drop in ranked.drops)):
        drops = [drop for drop in ranked.drops if drop.bits == bits and math.isfinite(drop.drop.estimate)]
        if not drops:
            continue
        title = f"From {ranked.bits} to {bits} bits, one unit at a time"
        svg = ranking(
            [drop.unit for drop in drops],
            [drop.drop for drop in drops],
            [kind_of(drop.unit) for drop in drops],
            ranked.metric,
            title,
            f"{prefix}-rank{number}",
        )
        blocks.append(Plot(svg, f"{title}: {formats.worsening(ranked.metric)} with paired 95 % intervals"))
        blocks += _block_map(drops, ranked.metric, title)
    return [*blocks, _ranking_table(ranked)]


def kind_of(unit: str) -> str:
    """The kind of a site within its block, ``attn.c_attn``; of a whole block, ``block``."""
    block = block_name(unit)
    return unit.removeprefix(f"{block}.") if unit != block else "block"


def _block_map(drops: Sequence[Drop], metric: str, title: str) -> list[Block]:
    """Blocks by kinds of site; none where units are blocks or there is one block."""
    by_place = {(block_name(drop.unit), kind_of(drop.unit)): drop.drop.estimate for drop in drops}
    names = list(dict.fromkeys(sorted((block for block, _ in by_place), key=_natural)))
    kinds = sorted({kind for _, kind in by_place})
    if len(names) < 2 or len(kinds) < 2:
        return []
    most = max(max(by_place.values()), 1e-12)
    rows = []
    for block in names:
        shaded = [by_place.get((block, kind)) for kind in kinds]
        rows.append([Cell(block), *(_heat(value, most) for value in shaded)])
    what = formats.capital(formats.worsening(metric))
    note = f"{what}; the stronger the shade, the more. Intervals are in the table below."
    return [Table(f"{title}: blocks by kind of site", ["Block", *kinds], rows, note, look="heat")]


def _heat(value: float | None, most: float) -> Cell:
    return Cell(formats.DASH) if value is None else Cell(formats.signed(value, 2), heat=max(0.0, value) / most)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _reading(drop: Drop) -> str:
    if not math.isfinite(drop.drop.estimate):
        return formats.DASH
    return "loss" if drop.drop.low > 0 else "gain" if drop.drop.high < 0 else "not shown"


def _ranking_table(ranked: Ranked) -> Table:
    reference = formats.in_prose(ranked.reference, ranked.metric)
    rows = [
        cells(
            drop.unit,
            drop.bits,
            formats.difference(drop.drop),
            _reading(drop),
            f"{drop.average_bits:.2f}",
            formats.size(drop.weight_bytes),
        )
        for drop in ranked.drops
    ]
    name = formats.name_of(ranked.metric)
    return Table(
        f"Most tolerant first; the reference, uniform {ranked.bits} bits, has {name} {reference}",
        [
            "Unit",
            "Lowered to",
            formats.capital(formats.worsening(ranked.metric)),
            "Reads as",
            "Average bits",
            "Packed weights",
        ],
        rows,
        PAIRED,
    )
