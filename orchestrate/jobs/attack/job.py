"""The command ``attack``: attacks on a pool of Ray actors, and what they say of a model's robustness.

Transfer between bitmaps, random precision inference and the attackers against it are computed from what the actors
read (:mod:`orchestrate.jobs.attack.on_pool`); nothing here runs a model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from orchestrate.config.build import parse_bitmaps
from orchestrate.config.train import TrainConfig
from orchestrate.document.blocks import Block, Plot, Statement
from orchestrate.document.cell import Cell
from orchestrate.document.estimate import UNKNOWN_EXAMPLES, Estimate, forward, parameters_of, sequence_tokens
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.record import Record, Step
from orchestrate.document.table_config import Place
from orchestrate.jobs.attack import findings as found_by
from orchestrate.jobs.attack.config import AdaptiveConfig, AttackConfig
from orchestrate.jobs.attack.on_pool import Found, Plan, attack_and_judge, name_of
from orchestrate.jobs.base import Job, Offer, Result
from orchestrate.jobs.shared.checkpoint import open_checkpoint
from orchestrate.jobs.shared.labels import tell_labels
from orchestrate.jobs.shared.scores import log_at, record_bitmap
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import ATTACK_RECORD, ROBUSTNESS
from orchestrate.runs.mlflow_tracker import Run
from orchestrate.runs.progress import progress_bar
from qalof.attacks.attack import AttackSettings
from qalof.attacks.examples import fitting, for_task
from qalof.attacks.methods.substitution import WordAttackSettings
from qalof.attacks.result import AttackExample, AttackResult
from qalof.attacks.robustness.adaptive import Expectation
from qalof.attacks.robustness.random_precision import BATCH_SIZE, RandomPrecision
from qalof.attacks.robustness.report import Attacked, RobustnessResult, robustness_of
from qalof.attacks.robustness.transfer import DrawTable
from qalof.attacks.substitutes.sentence_encoder import STATES, check_encoder
from qalof.bitmap_names import short_name
from qalof.cost import cost_of
from qalof.errors import BadInputError
from qalof.files import write_json
from qalof.model.pretrained import HeadKind
from qalof.model.switchable import SwitchableModel

LAYER_DRAWS = 4
"""How many draws per step an attacker on the mean of a defense by layer takes, where the config names none."""


@dataclass(frozen=True)
class Checked:
    """An attack that was checked before any actor starts."""

    model: SwitchableModel
    plan: Plan
    examples: list[AttackExample]
    left_out: dict[int, str]
    """Why an example cannot be attacked, by its id."""


def check(config: AttackConfig) -> Checked:
    """Find the bitmaps, defenses and texts of an attack.

    Raises:
        BadInputError: the method cannot attack this checkpoint, or bitmaps do not fit the model.
    """
    opened = open_checkpoint(config.checkpoint)
    tell_labels(opened.task)
    model = opened.model
    sites = model.sites
    settings = for_task(config.method.settings, opened.task)
    bitmaps, defense = parse_bitmaps(config.bitmaps, sites), config.random_precision
    drawn = parse_bitmaps(defense.bitmaps, sites) if defense.bitmaps is not None else bitmaps
    baseline = None if defense.baseline is None else parse_bitmaps([defense.baseline], sites)[0]
    defenses = [
        RandomPrecision.of(
            [site.name for site in sites],
            drawn,
            granularity=defense.granularity,
            batch_size=BATCH_SIZE if defense.batch_size is None else defense.batch_size,
            seed=config.seed,
            probability=probability,
            baseline=None if probability == 1 else baseline,
        )
        for probability in defense.probabilities
    ]
    tokenizer = opened.task.tokenizer  # type: ignore[attr-defined]
    settings.judge(model, tokenizer)
    examples, left_out = fitting(settings, settings.examples(opened.task)[: config.limit], model, tokenizer)
    if config.encoder != STATES:
        check_encoder(config.encoder)
    adaptive = tuple(_mean(config.adaptive, each) for each in defenses) if config.adaptive is not None else ()
    if adaptive and not settings.uses_lm:  # one that takes no mean says so before any worker starts
        settings.build(model, tokenizer, None, config.seed, adaptive[0])
    _check_together(config.texts_at_once, config.method.name, settings, model)
    plan = Plan(
        opened, settings, tuple(bitmaps), tuple(defenses), adaptive, defense.draws, config.seed, config.encoder,
        config.texts_at_once,
    )  # fmt: skip
    return Checked(model, plan, examples, left_out)


def _check_together(texts: int, method: str, settings: AttackSettings, model: SwitchableModel) -> None:
    if texts == 1 or (isinstance(settings, WordAttackSettings) and model.base.head is HeadKind.CLASSIFIER):
        return
    raise BadInputError(
        f"texts_at_once above 1 is for attacks on words of a classifier: got {texts} with {method} and a "
        f"{model.base.head} head; take 1"
    )


def _mean(config: AdaptiveConfig, defense: RandomPrecision) -> Expectation:
    draws = LAYER_DRAWS if config.draws is None and defense.weights() is None else config.draws
    return Expectation(defense, draws, config.combine)


def work(config: AttackConfig, checked: Checked, directory: RunDirectory, run: Run) -> dict[str, Any]:
    """Attack, report to MLflow, and give the result."""
    plan = checked.plan
    total, began = len(checked.examples) * (len(plan.targets) + 1), time.time()
    with progress_bar("attack", total) as progress:
        found = attack_and_judge(
            plan, checked.examples, config.workers, directory.path, lambda done, _, said: progress.update(done, said)
        )
    ended = time.time()
    results = [found.results[str(bitmap)] for bitmap in plan.bitmaps]
    robustness = _report(plan, found)
    summary = robustness.to_json()
    write_json(directory.path / ROBUSTNESS, summary)
    run.artifact(directory.path / ROBUSTNESS)
    sites = checked.model.sites
    for index, (bitmap, texts) in enumerate(zip(plan.bitmaps, results, strict=True)):
        metrics = {
            "clean_accuracy": _percent(robustness.clean_accuracy[index].estimate),
            "attack_success": _percent(robustness.attack_success[index].estimate),
            "queries": sum(r.queries for r in texts) / len(texts),
        }
        every = {**metrics, **cost_of(bitmap, sites).as_metrics()}
        name = f"attacked at {short_name(bitmap)}"
        # texts of all bitmaps are attacked side by side, so each took as long as the whole
        record_bitmap(run, name, bitmap, every, "attack", sites=sites, span=(began, ended))
        log_at(run, bitmap, metrics)
    for defense in summary["random_precision"]:
        p = defense["defense"]["probability"]
        named = "random_precision" if p == 1 else f"random_precision.p{p:g}"
        run.log_metrics(
            {f"{named}.{name}": _percent(defense[name]["estimate"]) for name in ("success_mean", "clean_accuracy")}
        )
    reasons = {**checked.left_out, **found.skipped}
    left_out = [{"example": index, "reason": reason} for index, reason in sorted(reasons.items())]
    return {
        "method": config.method.name,
        "robustness": summary,
        "examples": len(found.examples),
        "left_out": left_out,
    }


def _report(plan: Plan, found: Found) -> RobustnessResult:
    """Compute the figures; each defense has the texts of its own adaptive attacker, if there is one, last."""
    sources = len(plan.bitmaps)
    places = {name_of(target): index for index, target in enumerate(plan.targets)}
    drawn, adaptive = [], list[list[AttackResult] | None]()
    for index, (defense, table) in enumerate(zip(plan.defenses, found.drawn, strict=True)):
        own = plan.adaptive[index].name if plan.adaptive else None
        rows = [*range(sources), *([] if own is None else [places[own]])]
        drawn.append((defense, DrawTable(table.clean, table.adversarial[rows])))
        adaptive.append(None if own is None else found.results[own])
    fixed = [found.results[str(bitmap)] for bitmap in plan.bitmaps]
    return robustness_of(found.table, drawn, Attacked(fixed, adaptive))


def _percent(share: float | None) -> float:
    return float("nan") if share is None else 100 * share


METHODS = {
    "gbda": "A gradient-based attack (GBDA)",
    "textfooler": "An attack by synonyms (TextFooler)",
    "bert-attack": "An attack by a language model's proposals for words (BERT-Attack)",
    "arca": "A search for prompts that make the model say a fixed output (ARCA)",
}


class AttackJob(Job[AttackConfig, Checked]):
    """``qalof attack``."""

    name = "attack"
    config = AttackConfig
    settings = (
        ("Checkpoint", "checkpoint"),
        ("Texts", "limit"),
        ("Bitmaps", "bitmaps"),
        ("Method", "method"),
        ("Random precision", "random_precision"),
        ("Adaptive attacker", "adaptive"),
        ("Encoder", "encoder"),
        ("Seed", "seed"),
    )
    record = (ATTACK_RECORD, "attack")

    def method(self, config: AttackConfig) -> str:
        """Name the attack."""
        return config.method.name

    def check(self, config: AttackConfig) -> Checked:
        """Return the checkpoint, the bitmaps, the method and its targets."""
        return check(config)

    def work(self, config: AttackConfig, checked: Checked, directory: RunDirectory, run: Run) -> Result:
        """Attack every text at every bitmap, and measure transfer and random precision."""
        return work(config, checked, directory, run)

    def estimate(self, step: PlannedStep, trained: TrainConfig | None) -> Estimate | None:
        """Count what the method takes per text, times texts and bitmaps."""
        if trained is None:
            return None
        config: Any = step.config
        settings, parameters = config.method.settings, parameters_of(trained)
        over = len(config.random_precision.bitmaps or config.bitmaps)
        means = 0 if config.adaptive is None else config.adaptive.draws or over
        texts = (config.limit or UNKNOWN_EXAMPLES) * (len(config.bitmaps) + means)
        # longer texts are cut, and prompts are as long as they are made
        tokens = min(sequence_tokens(trained.task), settings.max_length)
        each = settings.work(tokens)
        stepped = texts * each.trained
        learned = Estimate(trained=stepped, tokens=stepped * tokens, flops=6.0 * parameters * stepped * tokens)
        return learned + forward(texts * each.forward, tokens, parameters)

    def findings(self, folder: Path, result: Mapping[str, Any]) -> found_by.Attacked:
        """Read the rates, and the texts."""
        return found_by.attacked(folder, result)

    def lead(self, step: Step) -> str:
        """Name the method."""
        method = str(step.config.get("method", {}).get("name"))
        return (
            f"{METHODS.get(method, f'The attack {method}')} at each fixed precision, and the same texts against other "
            "precisions and against random precision inference."
        )

    def pictures(self, folder: Path, result: Mapping[str, Any]) -> list[Plot]:
        """Draw the transfer matrix."""
        from orchestrate.jobs.attack.view import transfer_plot

        return transfer_plot(found_by.attacked(folder, result), "picture")

    def section(self, record: Record, step: Step, prefix: str) -> list[Block]:
        """Show success, transfer, random precision, and examples."""
        from orchestrate.jobs.attack.view import attack_blocks

        return attack_blocks(step, prefix)

    def statements(self, record: Record, step: Step) -> list[Statement]:
        """Say how often the attack succeeds, and what random precision changes."""
        from orchestrate.jobs.attack.sentences import attack_statements

        return attack_statements(step)

    def terminal(self, result: Mapping[str, Any], folder: Path) -> list[RenderableType]:
        """Show the success of each bitmap's texts against each bitmap."""
        from orchestrate.jobs.attack.terminal import robustness_table

        return [robustness_table(result["robustness"])]

    def offers(self, step: PlannedStep, of: str, metrics: Callable[[], Sequence[str]]) -> Offer:
        """Offer what :mod:`orchestrate.jobs.attack.cells` lists."""
        from orchestrate.jobs.attack.cells import offered

        assert isinstance(step.config, AttackConfig)
        return offered(step.config, of)

    def cell(self, place: Place, step: PlannedStep) -> Cell:
        """Read one of the numbers that are offered."""
        from orchestrate.jobs.attack.cells import attack_cell

        return attack_cell(place, step)
