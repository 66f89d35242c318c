"""Attacks on a pool of Ray actors, and what they say of a model's robustness.

An item of work is one text at one bitmap.  Its result is a function of (seed, text, bitmap) alone, so it does not
matter which actor does it, and each is appended to ``attacks.jsonl`` as it arrives: an attack that was
killed goes on with what is missing.  Transfer between bitmaps and random precision inference are measured
afterwards, from the texts that were found.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from orchestrate.assemble import parse_bitmaps
from orchestrate.config import AttackConfig
from orchestrate.evaluation_pool import pool_of, threads_of
from qalof.attacks.attack import AttackExample, AttackResult, attack_examples, numbered
from qalof.attacks.gbda import GbdaSettings
from qalof.attacks.random_precision import RandomPrecision
from qalof.attacks.robustness import RobustnessReport, robustness_report
from qalof.attacks.transfer import draw_table, prediction_table
from qalof.bitmap import Bitmap
from qalof.checkpoints import load, task_of
from qalof.errors import BadInputError
from qalof.files import append_lines
from qalof.model.pretrained import HeadKind, load_pretrained
from qalof.model.shared_base import share_large
from qalof.model.sites import Site
from qalof.tasks.classification import ClassificationTask

RECORD = "attacks.jsonl"
Item = tuple[AttackExample, Bitmap]
OnResult = Callable[[int, int, AttackResult], None]
"""Called with (done, total, result)."""


class AttackActor:
    """Holds a victim and the language model that judges fluency."""

    def __init__(self, checkpoint: str, settings: GbdaSettings, threads: int, gpu: bool) -> None:
        torch.set_num_threads(threads)
        self._model, self._task = load(checkpoint), task_of(checkpoint)
        self._settings = settings
        self._lm = load_pretrained(self._model.base.source, HeadKind.CAUSAL_LM)
        for module in (self._model, self._lm):
            module.to("cuda" if gpu else "cpu")
        share_large(self._model)

    def do(self, item: Item) -> AttackResult:
        """Attack one text at one bitmap."""
        example, bitmap = item
        tokenizer = self._task.tokenizer  # type: ignore[attr-defined]
        return attack_examples(self._model, self._lm, tokenizer, [example], bitmap, self._settings)[0]


def check(config: AttackConfig, sites: Sequence[Site]) -> tuple[list[Bitmap], RandomPrecision, list[AttackExample]]:
    """Bitmaps, the defence and the texts, found good before any actor starts.

    Raises:
        BadInputError: the checkpoint is no classifier's, or bitmaps that do not fit the model.
    """
    task = task_of(config.checkpoint)
    if not isinstance(task, ClassificationTask):
        raise BadInputError(f"attack needs a classifier's checkpoint: {config.checkpoint} is of task {task.name}")
    bitmaps = parse_bitmaps(config.bitmaps, sites)
    defence = config.random_precision
    drawn = RandomPrecision.of(
        [site.name for site in sites],
        parse_bitmaps(defence.bitmaps, sites) if defence.bitmaps is not None else bitmaps,
        granularity=defence.granularity,
        seed=config.seed,
    )
    return bitmaps, drawn, numbered(task.settings.read(task.settings.validation_split))[: config.limit]


def attack(
    config: AttackConfig, sites: Sequence[Site], folder: Path, on_result: OnResult | None = None
) -> tuple[list[list[AttackResult]], RobustnessReport]:
    """Attack every text at every bitmap, then measure transfer and random precision; Ray is connected already.

    Returns:
        Results by bitmap, in the texts' order; and the report.

    Raises:
        BadInputError: see :func:`check`.
    """
    bitmaps, defence, examples = check(config, sites)
    settings = replace(config.gbda, seed=config.seed)
    record = _Record(folder / RECORD)
    found = record.read()
    items = [(example, bitmap) for bitmap in bitmaps for example in examples]
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
        arguments = (config.checkpoint, settings, threads_of(workers), workers.gpu)
        pool = pool_of(AttackActor, workers, *arguments, size=min(workers.count, len(missing)))
        try:
            pool.map(missing, keep)
        finally:
            pool.close()
    results = [[found[_key((example, bitmap))] for example in examples] for bitmap in bitmaps]
    return results, _report(config, settings, results, bitmaps, defence)


def _report(
    config: AttackConfig,
    settings: GbdaSettings,
    results: Sequence[Sequence[AttackResult]],
    bitmaps: Sequence[Bitmap],
    defence: RandomPrecision,
) -> RobustnessReport:
    model, task = load(config.checkpoint), task_of(config.checkpoint)
    tokenizer = task.tokenizer  # type: ignore[attr-defined]
    table = prediction_table(model, tokenizer, results, bitmaps, max_length=settings.max_length)
    draws = config.random_precision.draws
    drawn = draw_table(model, tokenizer, results, defence, draws, max_length=settings.max_length)
    return robustness_report(table, drawn, defence)


def _key(item: Item) -> tuple[int, str]:
    return item[0].id, str(item[1])


class _Record:
    """Results as JSON lines; a line that a kill tore off is dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[tuple[int, str], AttackResult]:
        if not self._path.exists():
            return {}
        whole = [line for line in self._path.read_bytes().split(b"\n")[:-1] if line]
        os.truncate(self._path, sum(len(line) + 1 for line in whole))
        results = [AttackResult.from_json(self._parse(line)) for line in whole]
        return {(result.example_id, result.bitmap): result for result in results}

    def add(self, result: AttackResult) -> None:
        append_lines(self._path, [json.dumps(result.to_json())])

    def _parse(self, line: bytes) -> Mapping[str, Any]:
        try:
            data: Mapping[str, Any] = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInputError(f"attack record {self._path} is damaged ({error}); delete it to attack again") from None
        return data
