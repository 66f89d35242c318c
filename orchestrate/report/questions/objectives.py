"""Step 4: which training objectives help switching."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from orchestrate.document import formats
from orchestrate.document.blocks import Block, Cell, Statement, Table, cells
from orchestrate.document.captions import PAIRED
from orchestrate.jobs.shared.compare import between_models, comparable_models, paired
from orchestrate.jobs.shared.findings import Scored, scored_of
from orchestrate.jobs.shared.view import verdict
from orchestrate.report.questions.measured import Found, Measured, made_by, not_run, published

STEP = "Step 4"
ASKED = "Which training objectives help switching between bit-widths?"
_OTHERS = (
    "Objectives that were not trained here are candidates: cascade distillation (cascade), distillation of hidden "
    "states (layerwise), contrastive alignment (contrastive), sandwich, random and curriculum. Each is one key, "
    "objective.name; benchmarks/objectives.py compares them."
)


def answer(found: Sequence[Measured], filled: Collection[str]) -> Found:
    """Compare the objectives by the gap between the widest and the narrowest bitmap, and with each other in pairs."""
    trained = [(one, scores) for one in found if one.objective and (scores := scored_of(one.step)) is not None]
    if not trained:
        return not_run(
            "Not run: these runs trained no model that they scored.",
            "qalof train --config configs/train/cascade_tiny.yaml",
            "qalof run --config configs/s2/styles.yaml",
        )
    gaps = [row for one, scores in trained if (row := _gap(one, scores)) is not None]
    pairs = _pairs([one for one, _ in trained])
    names = formats.listed([f"{one.step.name} ({one.objective})" for one, _ in trained])
    statements = [Statement(f"Trained here: {names}.")]
    if pairs is None:
        text = "No two objectives were scored on the same examples, so none is shown to help more than another."
        statements.append(Statement(text, caution=True))
    statements += [Statement(text) for _, text in gaps]
    blocks: list[Block] = []
    if gaps:
        header = ["Model", "Objective", "Widest", "Narrowest", "Difference"]
        rows = [row for row, _ in gaps]
        caption = "The price of switching down: the narrowest bitmap that was trained against the widest scored one"
        blocks.append(Table(caption, header, rows, PAIRED))
    blocks += [] if pairs is None else [pairs]
    blocks += made_by([one for one, _ in trained])
    return True, [*statements, Statement(_OTHERS)], [*blocks, *published(filled, "s3/beta")]


def _gap(one: Measured, scores: Scored) -> tuple[list[Cell], str] | None:
    """Return the row and the sentence of a model: its narrowest trained bitmap against its widest scored one."""
    asked = one.step.config["objective"].get("bitmaps") or ()
    wanted = set(map(str, asked))
    own = [i for i, point in enumerate(scores.points) if not wanted or str(point.bitmap) in wanted]
    if len(scores.points) < 2 or not own:
        return None
    narrow = min(own, key=lambda index: scores.points[index].cost.average_bits)
    wide, metric = scores.reference, scores.metric
    difference = paired(scores.evaluations[narrow], scores.evaluations[wide], metric) if narrow != wide else None
    if difference is None:
        return None
    bottom, top = (str(scores.points[index].bitmap) for index in (narrow, wide))
    levels = [formats.level_with_interval(scores.points[index].metrics[metric], metric) for index in (wide, narrow)]
    text = formats.difference(difference)
    row = cells(
        one.step.name,
        one.objective,
        f"{formats.bitmap_name(top)}: {levels[0]}",
        f"{formats.bitmap_name(bottom)}: {levels[1]}",
        text,
    )
    name = formats.name_of(metric)
    said = f"{one.step.name} ({one.objective}): {name} at {formats.bitmap_name(bottom)} differs from that at "
    return row, f"{said}{formats.bitmap_name(top)} by {text}."


def _pairs(trained: Sequence[Measured]) -> Table | None:
    by_step = {id(one.step): one for one in trained}
    rows = []
    for one in trained:
        for other in comparable_models(one.record, one.step):
            rival = by_step.get(id(other))
            if rival is None:
                continue
            for compared in between_models(one.step, other):
                models = f"{one.step.name} ({one.objective}) against {other.name} ({rival.objective})"
                bitmap = formats.bitmap_name(compared.bitmap)
                rows.append(cells(models, bitmap, formats.difference(compared.difference), verdict(compared)))
    if not rows:
        return None
    metric = formats.name_of(_metric(trained))
    header = ["Models", "Bitmap", "Difference", "Reads as"]
    return Table(f"Objectives against each other, {metric} on the same examples", header, rows, PAIRED)


def _metric(trained: Sequence[Measured]) -> str:
    return next(scores.metric for one in trained if (scores := scored_of(one.step)) is not None)
