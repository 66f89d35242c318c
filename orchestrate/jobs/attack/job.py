"""Attacks on a pool of Ray actors, and what they say of a model's robustness.

An item of work is one text at one bitmap.  Its result is a function of (seed, text, bitmap) alone, so it does not
matter which actor does it, and each is appended to ``attacks.jsonl`` as it arrives: an attack that was
killed goes on with what is missing.  Transfer between bitmaps and random precision inference are measured
afterwards, from the texts that were found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType

from orchestrate.cluster.evaluation_pool import pool_of, threads_of
from orchestrate.config.build import parse_bitmaps
from orchestrate.config.train import TrainConfig
from orchestrate.document.blocks import Block, Statement
from orchestrate.document.cell import Cell
from orchestrate.document.estimate import UNKNOWN_EXAMPLES, Estimate, forward, parameters_of, sequence_tokens
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.record import Record, Step
from orchestrate.document.table_config import Place
from orchestrate.jobs.attack.config import AttackConfig
from orchestrate.jobs.attack.findings import Attacked, attacked
from orchestrate.jobs.base import Job, Offer, Result
from orchestrate.jobs.shared.checkpoint import open_checkpoint
from orchestrate.jobs.shared.scores import log_at, record_bitmap
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import ATTACK_RECORD, ROBUSTNESS
from orchestrate.runs.mlflow_tracker import Run
from orchestrate.runs.progress import progress_bar
from qalof.attacks.attack import AttackExample, AttackResult, AttackSettings, attack_at
from qalof.attacks.examples import fitting
from qalof.attacks.robustness.random_precision import BATCH_SIZE, RandomPrecision
from qalof.attacks.robustness.report import RobustnessResult, robustness_of
from qalof.attacks.robustness.transfer import draw_table, prediction_table
from qalof.bitmap import Bitmap
from qalof.bitmap_names import short_name
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.cost import cost_of
from qalof.errors import BadInputError
from qalof.files import append_lines, read_whole_lines, write_json
from qalof.model.pretrained import HeadKind, load_pretrained
from qalof.model.shared_memory import share_large
from qalof.model.switchable import SwitchableModel
from qalof.tasks.base import Task

Item = tuple[AttackExample, Bitmap]
OnResult = Callable[[int, int, AttackResult], None]
"""A function that is called with (done, total, result)."""


class AttackActor:
    """Holds a victim and, where the method asks for one, a plain language model."""

    def __init__(
        self, checkpoint: OpenCheckpoint, settings: AttackSettings, seed: int, threads: int, device: str
    ) -> None:
        torch.set_num_threads(threads)
        self._model, lm = checkpoint.model.to(device), None
        if settings.uses_lm:
            lm = load_pretrained(self._model.base.source, HeadKind.CAUSAL_LM).to(device)
        share_large(self._model)
        # built once, since some attacks go through the whole vocabulary, and on arrays that are shared by now
        tokenizer = checkpoint.task.tokenizer  # type: ignore[attr-defined]
        self._attack = settings.build(self._model, tokenizer, lm, seed)

    def do(self, item: Item) -> AttackResult:
        """Attack one text at one bitmap."""
        example, bitmap = item
        return attack_at(bitmap, self._model, self._attack, example)


@dataclass(frozen=True)
class Checked:
    """An attack that was checked before any actor starts."""

    opened: OpenCheckpoint
    model: SwitchableModel
    task: Task
    settings: AttackSettings
    bitmaps: list[Bitmap]
    defences: list[RandomPrecision]
    examples: list[AttackExample]
    left_out: dict[int, str]
    """Why an example cannot be attacked, by its id."""


def check(config: AttackConfig) -> Checked:
    """Find the bitmaps, defenses and texts of an attack.

    Raises:
        BadInputError: the method cannot attack this checkpoint, or bitmaps do not fit the model.
    """
    opened = open_checkpoint(config.checkpoint)
    model = opened.model
    sites = model.sites
    settings: AttackSettings = config.method.settings
    bitmaps, defence = parse_bitmaps(config.bitmaps, sites), config.random_precision
    drawn = parse_bitmaps(defence.bitmaps, sites) if defence.bitmaps is not None else bitmaps
    baseline = None if defence.baseline is None else parse_bitmaps([defence.baseline], sites)[0]
    defences = [
        RandomPrecision.of(
            [site.name for site in sites],
            drawn,
            granularity=defence.granularity,
            batch_size=BATCH_SIZE if defence.batch_size is None else defence.batch_size,
            seed=config.seed,
            probability=probability,
            baseline=None if probability == 1 else baseline,
        )
        for probability in defence.probabilities
    ]
    tokenizer = opened.task.tokenizer  # type: ignore[attr-defined]
    settings.judge(model, tokenizer)
    examples, left_out = fitting(settings, settings.examples(opened.task)[: config.limit], model, tokenizer)
    return Checked(opened, model, opened.task, settings, bitmaps, defences, examples, left_out)


def work(config: AttackConfig, checked: Checked, directory: RunDirectory, run: Run) -> dict[str, Any]:
    """Attack, report to MLflow, and give the result."""
    with progress_bar("attack", len(checked.examples) * len(checked.bitmaps)) as progress:
        results, robustness = attack(
            config,
            checked,
            directory.path,
            lambda done, total, r: progress.update(done, f"{short_name(r.bitmap)}: {r.status}"),
        )
    summary = robustness.to_json()
    write_json(directory.path / ROBUSTNESS, summary)
    run.artifact(directory.path / ROBUSTNESS)
    sites = checked.model.sites
    for index, (bitmap, texts) in enumerate(zip(checked.bitmaps, results, strict=True)):
        metrics = {
            "clean_accuracy": _percent(robustness.clean_accuracy[index].estimate),
            "attack_success": _percent(robustness.attack_success[index].estimate),
            "queries": sum(r.queries for r in texts) / len(texts),
        }
        every = {**metrics, **cost_of(bitmap, sites).as_metrics()}
        record_bitmap(run, f"attacked at {short_name(bitmap)}", bitmap, every, "attack")
        log_at(run, bitmap, metrics)
    for defence in summary["random_precision"]:
        p = defence["defence"]["probability"]
        named = "random_precision" if p == 1 else f"random_precision.p{p:g}"
        run.log_metrics(
            {f"{named}.{name}": _percent(defence[name]["estimate"]) for name in ("success_mean", "clean_accuracy")}
        )
    left_out = [{"example": index, "reason": reason} for index, reason in checked.left_out.items()]
    return {
        "method": config.method.name,
        "robustness": summary,
        "examples": len(checked.examples),
        "left_out": left_out,
    }


def attack(
    config: AttackConfig, checked: Checked, folder: Path, on_result: OnResult | None = None
) -> tuple[list[list[AttackResult]], RobustnessResult]:
    """Attack every text at every bitmap, then measure transfer and random precision; Ray is connected already.

    Returns:
        The results by bitmap, in the texts' order, and the report.
    """
    record = _Record(folder / ATTACK_RECORD)
    found = record.read()
    items = [(example, bitmap) for bitmap in checked.bitmaps for example in checked.examples]
    missing = [item for item in items if _key(item) not in found]
    done = len(items) - len(missing)

    def keep(index: int, result: AttackResult) -> None:
        nonlocal done
        record.add(result)
        found[_key(missing[index])] = result
        done += 1
        if on_result:
            on_result(done, len(items), result)

    if missing:
        workers = config.workers
        arguments = (checked.opened, checked.settings, config.seed, threads_of(workers), workers.device)
        pool = pool_of(AttackActor, workers, *arguments, size=min(workers.count, len(missing)))
        with closing(pool):
            pool.map(missing, keep)
    results = [[found[_key((example, bitmap))] for example in checked.examples] for bitmap in checked.bitmaps]
    return results, _report(checked, results, config.random_precision.draws)


def _report(checked: Checked, results: Sequence[Sequence[AttackResult]], draws: int) -> RobustnessResult:
    judge = checked.settings.judge(checked.model, checked.task.tokenizer)  # type: ignore[attr-defined]
    table = prediction_table(judge, results, checked.bitmaps)
    drawn = [(defence, draw_table(judge, results, defence, draws)) for defence in checked.defences]
    return robustness_of(table, drawn)


def _percent(share: float | None) -> float:
    return float("nan") if share is None else 100 * share


def _key(item: Item) -> tuple[int, str]:
    return item[0].id, str(item[1])


class _Record:
    """The results as JSON lines; a line that a kill tore off is dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[tuple[int, str], AttackResult]:
        results = [AttackResult.from_json(self._parse(line)) for line in read_whole_lines(self._path) if line]
        return {(result.example_id, result.bitmap): result for result in results}

    def add(self, result: AttackResult) -> None:
        append_lines(self._path, [json.dumps(result.to_json())])

    def _parse(self, line: bytes) -> Mapping[str, Any]:
        try:
            data: Mapping[str, Any] = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInputError(f"attack record {self._path} is damaged ({error}); delete it to attack again") from None
        return data


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
        ("Seed", "seed"),
    )
    record = (ATTACK_RECORD, "attack")

    def check(self, config: AttackConfig) -> Checked:
        """The checkpoint, the bitmaps, the method and its targets."""
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
        texts = (config.limit or UNKNOWN_EXAMPLES) * len(config.bitmaps)
        # longer texts are cut, and prompts are as long as they are made
        tokens = min(sequence_tokens(trained.task), settings.max_length)
        each = settings.work(tokens)
        stepped = texts * each.trained
        learnt = Estimate(trained=stepped, tokens=stepped * tokens, flops=6.0 * parameters * stepped * tokens)
        return learnt + forward(texts * each.forward, tokens, parameters)

    def findings(self, folder: Path, result: Mapping[str, Any]) -> Attacked:
        """Read the rates, and the texts."""
        return attacked(folder, result)

    def lead(self, step: Step) -> str:
        """The method."""
        method = str(step.config.get("method", {}).get("name"))
        return (
            f"{METHODS.get(method, f'The attack {method}')} at each fixed precision, and the same texts against other "
            "precisions and against random precision inference."
        )

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
