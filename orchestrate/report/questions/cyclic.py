"""Step 5: cyclic precision training against static training, and against the claim of its paper."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from orchestrate.document import formats
from orchestrate.document.blocks import Block, Statement, Table, cells
from orchestrate.document.captions import PAIRED
from orchestrate.jobs.shared.compare import Comparison, between_models, examples_of
from orchestrate.jobs.shared.findings import scored_of
from orchestrate.jobs.shared.view import verdict
from orchestrate.report.questions.measured import Found, Measured, made_by, not_run, published
from qalof.metrics import metric_of

STEP = "Step 5"
ASKED = "Does cyclic precision training help, as the CPT paper (ICLR 2021) observes?"
CYCLIC, STATIC = "cpt", "static"
CLAIM = (
    "The paper's claim: cycling the precision during training costs no accuracy against static precision, and often "
    "gains some, for image classifiers and language models that are trained from scratch, all weights alike."
)
REASONS = (
    "Possible reasons for a difference from the paper: here a pretrained model is fine-tuned and its weights are "
    "frozen, one small adapter serves all widths, training is short, and each model has one seed."
)


def answer(found: Sequence[Measured], filled: Collection[str]) -> Found:
    """Compare each CPT model with the others on the same examples, and both with the claim."""
    cyclic = [one for one in found if one.objective == CYCLIC and scored_of(one.step) is not None]
    if not cyclic:
        return not_run(
            "Not run: these runs scored no model that was trained with cyclic precision.",
            "qalof train --config configs/train/cpt_squad.yaml",
            "qalof run --config configs/s1/cpt.yaml",
        )
    rivals = [one for one in found if one.objective not in ("", CYCLIC) and scored_of(one.step) is not None]
    compared = [(one, other, pair) for one in cyclic for other in rivals for pair in _same_examples(one, other)]
    statements = [*_finding(compared), Statement(CLAIM)]
    if not any(other.objective == STATIC for _, other, _ in compared):
        text = "No model trained at one static width was scored on the same examples: not run."
        statements.append(Statement(f"{text} The pipeline configs/s1/cpt.yaml trains it.", caution=True))
    statements.append(Statement(REASONS))
    blocks: list[Block] = []
    if compared:
        blocks.append(_table(compared))
    users = {id(one.step): one for pair in compared for one in pair[:2]} or {id(one.step): one for one in cyclic}
    return True, statements, [*blocks, *made_by(list(users.values())), *published(filled, "s1/cpt", "s3/cpt")]


def _same_examples(one: Measured, other: Measured) -> list[Comparison]:
    key = examples_of(one.record, one.step)
    alike = key is not None and key == examples_of(other.record, other.step)
    return between_models(one.step, other.step) if alike else []


def _finding(compared: Sequence[tuple[Measured, Measured, Comparison]]) -> list[Statement]:
    if not compared:
        text = "A CPT model was trained, but no other model was scored on the same examples: nothing is compared."
        return [Statement(text, caution=True)]
    better, worse = (sum(_better(pair) == sign for *_, pair in compared) for sign in (1, -1))
    alike = len(compared) - better - worse
    rest = f"not shown to differ in {alike}" if alike else ""
    parts = [f"better in {better}" if better else "", f"worse in {worse}" if worse else "", rest]
    counted = formats.listed([part for part in parts if part])  # at least one, since there are comparisons
    text = f"Of {formats.count_of(len(compared), 'paired comparison')} with other models, CPT is {counted}."
    if worse and better:
        agrees = "That agrees with the paper's claim in part."
    elif worse:
        agrees = "That does not agree with the paper's claim."
    elif better:
        agrees = "That agrees with the paper's claim."
    else:
        agrees = "No cost of cycling is shown, which does not contradict the paper's claim, and no gain either."
    return [Statement(f"{text} {agrees}")]


def _better(pair: Comparison) -> int:
    """Return 1 where CPT is shown to be better, -1 where it is shown to be worse, and 0 otherwise."""
    if not pair.shown:
        return 0
    return 1 if pair.difference.estimate * metric_of(pair.metric).sign > 0 else -1


def _table(compared: Sequence[tuple[Measured, Measured, Comparison]]) -> Table:
    rows = [
        cells(
            f"{one.step.name} against {other.step.name} ({other.objective})",
            formats.bitmap_name(pair.bitmap),
            formats.difference(pair.difference),
            verdict(pair),
        )
        for one, other, pair in compared
    ]
    metric = formats.name_of(compared[0][2].metric)
    header = ["CPT against", "Bitmap", f"{formats.capital(metric)}, difference", "Reads as"]
    return Table("Cyclic precision training against other models, on the same examples", header, rows, PAIRED)
