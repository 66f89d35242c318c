"""The figures and tables of a report on sensitivities."""

from __future__ import annotations

import math
from typing import Any

from orchestrate.document import formats
from orchestrate.document.blocks import Block, Plot, Table, cells
from orchestrate.document.captions import PAIRED
from orchestrate.document.figures import ranking
from orchestrate.document.formats import natural
from orchestrate.document.heat import heat_map, kind_of, sites_by_choice
from orchestrate.document.record import Step
from orchestrate.jobs.sensitivity.findings import Drop, Ranked, ranked_of
from orchestrate.jobs.sensitivity.output_error_view import OutputErrors, error_blocks
from orchestrate.jobs.sensitivity.table_view import TableScores, table_blocks
from qalof.metrics import is_percent

MOST_RANKED = 40
"""The most units that a ranking draws; the heat map and the table have all."""
NAMED = 10
"""How many units the text alternative of a heat map names."""


def ranking_blocks(step: Step, prefix: str) -> list[Block]:
    """Make a heat map of all widths, a ranking for each width that units were reduced to, and the table."""
    if isinstance(step.findings, OutputErrors):
        return error_blocks(step.findings, prefix)
    if isinstance(step.findings, TableScores):
        return table_blocks(step.findings, prefix)
    ranked = ranked_of(step)
    if ranked is None:
        return []
    blocks = _heat(ranked, prefix)
    for number, bits in enumerate(dict.fromkeys(drop.bits for drop in ranked.drops)):
        drops = [drop for drop in ranked.drops if drop.bits == bits and math.isfinite(drop.drop.estimate)]
        if not drops:
            continue
        title = f"From {ranked.bits} to {bits} bits, one unit at a time"
        title += f", the {MOST_RANKED} most sensitive of {len(drops)}" if len(drops) > MOST_RANKED else ""
        drops = drops[-MOST_RANKED:]
        svg = ranking(
            [drop.unit for drop in drops],
            [drop.drop for drop in drops],
            [kind_of(drop.unit) for drop in drops],
            ranked.metric,
            title,
            f"{prefix}-rank{number}",
        )
        blocks.append(
            Plot(svg, f"{title}: {formats.worsening(ranked.metric)} with paired 95 % intervals", f"ranking{number}")
        )
    return [*blocks, _ranking_table(ranked)]


def heat_plots(found: Any, prefix: str) -> list[Plot]:
    """Draw what each site loses at each width, whatever the score."""
    blocks = (
        _heat(found, prefix)
        if isinstance(found, Ranked)
        else table_blocks(found, prefix)
        if isinstance(found, TableScores)
        else error_blocks(found, prefix)
    )
    return [block for block in blocks if isinstance(block, Plot)]


def _heat(ranked: Ranked, prefix: str) -> list[Block]:
    """Draw what each unit loses at each width; there is nothing to draw of fewer than two units."""
    lost: dict[str, dict[str, float]] = {}
    for drop in sorted(ranked.drops, key=lambda drop: natural(drop.unit)):
        if math.isfinite(drop.drop.estimate):
            lost.setdefault(drop.unit, {})[drop.bits] = drop.drop.estimate
    if len(lost) < 2:
        return []
    titles = {drop.bits: f"from {ranked.bits} to {drop.bits} bits" for drop in ranked.drops}
    panels = sites_by_choice(lost, lambda value: formats.signed(value, 2), titles)
    what = formats.capital(formats.worsening(ranked.metric))
    unit = " (points)" if is_percent(ranked.metric) else ""
    worst = sorted(((value, site, bits) for site, row in lost.items() for bits, value in row.items()), reverse=True)
    named = ", ".join(f"{site} at {bits} bits {formats.signed(value, 2)}" for value, site, bits in worst[:NAMED])
    alt = f"{what} of {len(lost)} units that are reduced alone, most first: {named}."
    caption = f"{what} when a unit alone is reduced, by block and kind of layer; intervals are in the table"
    return [Plot(heat_map(panels, f"{what}{unit}", f"{prefix}-heat", alt), caption, "sensitivity")]


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
