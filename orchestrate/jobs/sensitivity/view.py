"""The figures and tables of a report on sensitivities."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrate.document import formats
from orchestrate.document.blocks import Block, Cell, Plot, Table, cells
from orchestrate.document.captions import PAIRED
from orchestrate.document.figures import ranking
from orchestrate.document.formats import natural
from orchestrate.document.record import Step
from orchestrate.jobs.sensitivity.findings import Drop, Ranked, ranked_of
from orchestrate.jobs.sensitivity.output_error_view import OutputErrors, error_blocks
from orchestrate.jobs.sensitivity.table_view import TableScores, table_blocks
from qalof.bitmap import block_name


def ranking_blocks(step: Step, prefix: str) -> list[Block]:
    """Make a ranking and a map of blocks for each width that units were reduced to, and the table."""
    if isinstance(step.findings, OutputErrors):
        return error_blocks(step.findings)
    if isinstance(step.findings, TableScores):
        return table_blocks(step.findings)
    ranked = ranked_of(step)
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
    """The kind of a site within its block, such as ``attn.c_attn``; a whole block has the kind ``block``."""
    block = block_name(unit)
    return unit.removeprefix(f"{block}.") if unit != block else "block"


def _block_map(drops: Sequence[Drop], metric: str, title: str) -> list[Block]:
    """Make a table of blocks by kinds of site; there is none where units are blocks or there is only one block."""
    by_place = {(block_name(drop.unit), kind_of(drop.unit)): drop.drop.estimate for drop in drops}
    names = list(dict.fromkeys(sorted((block for block, _ in by_place), key=natural)))
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
            formats.bits(drop.average_bits),
            formats.size(drop.weight_bytes),
        )
        for drop in ranked.drops
    ]
    name = formats.name_of(ranked.metric)
    return Table(
        f"Most tolerant first; the reference, uniform {ranked.bits} bits, has {name} {reference}",
        [
            "Unit",
            "Reduced to",
            formats.capital(formats.worsening(ranked.metric)),
            "Reads as",
            "Average bits",
            "Packed weights",
        ],
        rows,
        PAIRED,
    )
