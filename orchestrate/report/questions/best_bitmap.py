"""Step 4: how the best bitmaps were found, and what the sensitivities show."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import fmean

from orchestrate.document import formats
from orchestrate.document.blocks import Block, Statement, Table, cells
from orchestrate.document.heat import kind_of
from orchestrate.jobs.search.findings import Searched, searched_of
from orchestrate.jobs.search.view import front_order, thinned
from orchestrate.jobs.sensitivity.findings import Ranked, ranked_of
from orchestrate.report.questions.measured import Found, Measured, made_by, not_run, published

STEP = "Step 4"
ASKED = "How were the best bit-width configurations determined, and what do the sensitivities show?"
MOST_SHOWN = 8
"""The most bitmaps of a front whose bits are listed by kind of layer."""


def answer(found: Sequence[Measured], filled: Collection[str]) -> Found:
    """Show each search's front and bitmaps, and each ranking by kind of layer."""
    own = [one for one in found if one.step.command in ("search", "sensitivity") and one.step.findings is not None]
    if not own:
        return not_run(
            "Not run: these runs neither ranked the sites nor searched for a bitmap.",
            "qalof run --config configs/pipeline/compress.yaml",
            "qalof search --config configs/search/real.yaml --budget 4.5",
        )
    statements = [text for one in own for text in one.said(3 if one.step.command == "search" else 2)]
    blocks: list[Block] = []
    for one in own:
        blocks += one.plots("front", "bitmaps", "sensitivity")
        if (searched := searched_of(one.step)) is not None:
            blocks += _bits_by_kind(one.step.name, searched)
        if (ranked := ranked_of(one.step)) is not None:
            blocks += _losses_by_kind(one.step.name, ranked)
        blocks += made_by([one])
    said = (
        "S1 calls the last third of the blocks, attn.c_proj and mlp.c_proj tolerant, attn.c_attn, mlp.c_fc and the MLP "
        "sensitive, without numbers; the pipeline configs/s1/sensitivity.yaml measures these contrasts."
    )
    return True, [*statements, Statement(said)], [*blocks, *published(filled, "s3/components", "s3/layers")]


def _losses_by_kind(name: str, ranked: Ranked) -> list[Block]:
    kinds = sorted({(drop.bits, kind_of(drop.unit)) for drop in ranked.drops})
    if len({kind for _, kind in kinds}) < 2:
        return []
    rows = []
    for bits, kind in kinds:
        drops = [drop.drop for drop in ranked.drops if (drop.bits, kind_of(drop.unit)) == (bits, kind)]
        shown = sum(drop.low > 0 for drop in drops)
        mean = formats.signed(fmean(drop.estimate for drop in drops), 2)
        rows.append(cells(kind, bits, str(len(drops)), mean, f"{shown} of {len(drops)}"))
    header = ["Kind of layer", "Reduced to", "Units", f"Mean {formats.worsening(ranked.metric)}", "Shown to lose"]
    note = "A unit is shown to lose where its paired 95 % interval is above zero."
    return [Table(f"{name}: what each kind of layer loses when one of its layers is reduced alone", header, rows, note)]


def _bits_by_kind(name: str, searched: Searched) -> list[Block]:
    order = front_order(searched)
    chosen = thinned(order, MOST_SHOWN)
    bitmaps = [searched.result.points[order[place]].bitmap for place in chosen]
    if not bitmaps:
        return []
    kinds = list(dict.fromkeys(map(kind_of, bitmaps[0].sites)))
    rows = [
        cells(
            kind,
            *(formats.bits(fmean(b.weight for site, b in one.items() if kind_of(site) == kind)) for one in bitmaps),
        )
        for kind in kinds
    ]
    header = ["Kind of layer", *(f"№ {place + 1}" for place in chosen)]
    note = "Means over layers, each counted once; numbers of bitmaps are those of the front, from cheap to expensive."
    return [Table(f"{name}: weight bits that the front's bitmaps give to each kind of layer", header, rows, note)]
