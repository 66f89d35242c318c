"""Post-training methods in a report."""

from __future__ import annotations

import math

from orchestrate.document import formats
from orchestrate.document.blocks import Block, Cell, Plot, Statement, Table
from orchestrate.document.captions import PAIRED, UNPAIRED
from orchestrate.document.figures import Series, metric_by_bits
from orchestrate.document.formats import bitmap_name, count_of, in_prose, listed, name_of
from orchestrate.jobs.ptq.findings import MethodScore, PtqScores
from orchestrate.jobs.shared.compare import is_shown
from orchestrate.jobs.shared.wording import apart
from qalof.metrics import mentioned


def ptq_blocks(found: PtqScores, prefix: str) -> list[Block]:
    """Draw the metric over bits with one line per method, and make the table with differences from the reference
    method.
    """
    metric = mentioned(found.scores[0].metrics)
    by_method: dict[str, list[MethodScore]] = {}
    for score in found.scores:
        if math.isfinite(score.metrics[metric].estimate):
            by_method.setdefault(score.method, []).append(score)
    series = [
        Series(method, [score.average_bits for score in scores], [score.metrics[metric] for score in scores])
        for method, scores in by_method.items()
    ]
    blocks: list[Block] = []
    if series:
        caption = f"{formats.heading(metric)} by average bits, without training, with 95 % intervals"
        blocks.append(Plot(metric_by_bits(series, metric, f"{prefix}-methods"), caption, "methods"))
    return [*blocks, _ptq_table(found, metric)]


def _ptq_table(found: PtqScores, metric: str) -> Table:
    metrics = list(found.scores[0].metrics)
    compared = any(metric in score.differences for score in found.scores)
    rows = []
    for score in found.scores:
        difference = score.differences.get(metric)
        rows.append(
            [
                Cell(score.method),
                Cell(formats.bitmap_heading(score.bitmap), score.bitmap),
                *(Cell(formats.level_with_interval(score.metrics[name], name)) for name in metrics),
                *((Cell(formats.DASH if difference is None else formats.difference(difference)),) if compared else ()),
                Cell(formats.bits(score.average_bits)),
                Cell(formats.size(score.stored_bytes), f"{score.stored_bytes:,} bytes"),
            ]
        )
    against = (f"{formats.capital(formats.name_of(metric))}, difference from {found.reference}",) if compared else ()
    return Table(
        f"Each method on {found.task}, on {formats.count_of(found.scores[0].examples, 'example')}",
        ["Method", "Bitmap", *map(formats.heading, metrics), *against, "Average bits", "Stored weights"],
        rows,
        PAIRED if compared else UNPAIRED,
    )


def ptq_statements(found: PtqScores) -> list[Statement]:
    """State the levels by method at each bitmap, and which differ from the reference method."""
    metric = mentioned(found.scores[0].metrics)
    statements = []
    for bitmap in dict.fromkeys(score.bitmap for score in found.scores):
        levels = [(s.method, s.metrics[metric]) for s in found.scores if s.bitmap == bitmap]
        text = listed([f"{in_prose(level, metric)} by {method}" for method, level in levels])
        statements.append(Statement(f"{formats.capital(name_of(metric))} at {bitmap_name(bitmap)}: {text}."))
    compared = [(score, score.differences[metric]) for score in found.scores if metric in score.differences]
    shown = [f"{apart(d, metric)} by {s.method} at {bitmap_name(s.bitmap)}" for s, d in compared if is_shown(d)]
    alike = len(compared) - len(shown)
    parts = [f"{name_of(metric)} is {listed(shown)}"] if shown else []
    parts += [f"no difference is shown in {count_of(alike, 'comparison')}"] if alike else []
    if parts:
        statements.append(Statement(f"Paired over the same examples with {found.reference}: {'; '.join(parts)}."))
    return statements
