"""Step 6: random precision inference as a defense, against the claim of Double-Win Quant."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from orchestrate.document import formats
from orchestrate.document.blocks import Block, Cell, Statement, Table
from orchestrate.jobs.attack.findings import Attacked, attacked_of
from orchestrate.jobs.attack.sentences import beyond
from orchestrate.jobs.attack.shown import cell, defense_name
from orchestrate.jobs.shared.compare import trained_by
from orchestrate.report.questions.measured import Found, Measured, made_by, not_run, published

STEP = "Step 6"
ASKED = "Does random precision inference make the model more robust, as Double-Win Quant (ICML 2021) observes?"
ADVERSARIAL = "rpt"
CLAIM = (
    "The paper's claim: attacks on an adversarially trained image classifier transfer poorly between the precisions to "
    "which it is quantized, so random precision makes it more robust than full precision, by a large margin."
)
REASONS = (
    "Possible reasons for a difference from the paper: words are discrete, so an attack changes much and rounding "
    "undoes less of it; language models here are quantized after or while they are fine-tuned; and an attacker who may "
    "try again meets another draw."
)


def answer(found: Sequence[Measured], filled: Collection[str]) -> Found:
    """Compare success at fixed and at random precision, with the unattacked control."""
    own = [(one, attacked) for one in found if (attacked := attacked_of(one.step)) is not None]
    defended = [(one, attacked) for one, attacked in own if attacked.robustness.random_precision]
    if not defended:
        which = "attacked no model" if not own else "attacked models at fixed precision alone"
        return not_run(
            f"Not run: these runs {which}.",
            "qalof attack --config configs/attack/tiny.yaml",
            "qalof run --config configs/s1/gbda.yaml",
        )
    statements = [text for one, attacked in defended for text in _finding(one, attacked)]
    statements.append(Statement(CLAIM))
    statements += [text for one, _ in defended for text in _victim(one)]
    blocks: list[Block] = []
    for one, attacked in defended:
        blocks += [*one.plots("success", "transfer"), _table(one.step.name, attacked), *made_by([one])]
    return True, [*statements, Statement(REASONS)], [*blocks, *published(filled, "s1/gbda", "s4/robustness")]


def _finding(one: Measured, attacked: Attacked) -> list[Statement]:
    fixed, said = attacked.robustness.attack_success, []
    for defense in attacked.robustness.random_precision:
        words = [beyond(source.success_mean, rate) for source, rate in zip(defense.sources, fixed, strict=True)]
        lower, higher = words.count("lower"), words.count("higher")
        retry = sum(beyond(source.success_any, source.control_any) == "higher" for source in defense.sources)
        count = formats.count_of(len(words), "precision")
        text = f"{one.step.name}, {defense_name(defense)}: attacks built at {lower} of {count} succeed less often"
        agrees = (
            "This agrees with the paper in direction."
            if lower and not higher
            else "This does not agree with the paper."
            if higher and not lower
            else "This agrees with the paper in part."
            if lower
            else "The intervals meet, so no effect is shown, for or against the paper's claim."
        )
        again = f"An attacker who may retry beats the unattacked control at {retry} of {len(words)}."
        said.append(Statement(f"{text} than at fixed precision, and at {higher} more often. {agrees} {again}"))
    return said


def _victim(one: Measured) -> list[Statement]:
    trained = trained_by(one.record, one.step)
    objective = str(trained.config.get("objective", {}).get("name", "")) if trained is not None else ""
    if not objective or objective == ADVERSARIAL:
        return []
    text = f"The attacked model of {one.step.name} was trained by {objective}, without attacks, unlike the paper's"
    return [Statement(f"{text}; the objective {ADVERSARIAL} trains as the paper does.", caution=True)]


def _table(name: str, attacked: Attacked) -> Table:
    robustness = attacked.robustness
    rows = [
        [
            Cell(f"{formats.bitmap_name(source.bitmap)}, {defense_name(defense)}"),
            cell(fixed),
            cell(source.success_mean),
            cell(source.control_mean),
            cell(source.success_any),
            cell(source.control_any),
        ]
        for defense in robustness.random_precision
        for source, fixed in zip(defense.sources, robustness.attack_success, strict=True)
    ]
    header = ["Attacked at", "Fixed precision", "Mean draw", "Its control", "Any draw", "Its control"]
    note = "Shares that succeed, with 95 % Wilson intervals. Any draw: an attacker retries. Controls are unattacked."
    return Table(f"{name}: attacks at fixed and at random precision", header, rows, note)
