"""Step 4: the accuracy at each bit-width."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from orchestrate.document import formats
from orchestrate.document.blocks import Block, Cell, Statement, Table
from orchestrate.document.captions import UNPAIRED
from orchestrate.jobs.shared.compare import comparable_models
from orchestrate.jobs.shared.findings import Scored, scored_of
from orchestrate.report.questions.measured import Found, Measured, made_by, not_run, published

STEP = "Step 4"
ASKED = "What is the task accuracy at each quantization bit-width?"


def answer(found: Sequence[Measured], filled: Collection[str]) -> Found:
    """Tabulate every score, by task, beside the published ones."""
    scored = [(one, scores) for one in found if (scores := scored_of(one.step)) is not None]
    if not scored:
        text = "Not run: none of these runs scored a model at several bitmaps."
        return not_run(text, "qalof train --config configs/train/sp_squad.yaml")
    statements = [text for one, _ in scored for text in one.said(1)]
    others = sorted({scores.task for _, scores in scored if not scores.task.startswith("squad")})
    if others:
        text = f"The brief asks about SQuAD; scores on {formats.listed(others)} are another task's."
        statements.append(Statement(text, caution=True))
    blocks: list[Block] = []
    # the figure of a later model has the earlier ones that were scored on the same examples
    drawn_later = {id(other) for one, _ in scored for other in comparable_models(one.record, one.step)}
    for one, _ in scored:
        blocks += one.plots("bits") if id(one.step) not in drawn_later else []
    for task in dict.fromkeys(scores.task for _, scores in scored):
        own = [(one, scores) for one, scores in scored if scores.task == task]
        blocks += [_table(task, own), *made_by([one for one, _ in own])]
    return True, statements, [*blocks, *published(filled, "s1/hybrid", "s3/bits")]


def _table(task: str, scored: Sequence[tuple[Measured, Scored]]) -> Table:
    metrics = list(dict.fromkeys(name for _, scores in scored for name in scores.points[0].metrics))
    rows = [
        [
            Cell(f"{one.step.name}, {formats.bitmap_heading(str(point.bitmap))}", str(point.bitmap)),
            *(
                Cell(formats.level_with_interval(point.metrics[name], name) if name in point.metrics else formats.DASH)
                for name in metrics
            ),
            Cell(formats.bits(point.cost.average_bits)),
            Cell(formats.size(point.cost.weight_bytes), f"{point.cost.weight_bytes:,} bytes"),
        ]
        for one, scores in scored
        for point in scores.points
    ]
    examples = {scores.points[0].examples for _, scores in scored}
    count = f"{min(examples):,}" if len(examples) == 1 else f"{min(examples):,} to {max(examples):,}"
    header = ["Model and bitmap", *map(formats.heading, metrics), "Average bits", "Packed weights"]
    return Table(f"Scores on {task}, {count} examples", header, rows, UNPAIRED)
