"""Attacks and their judgement on a pool of actors, one text at a time.

An item of work is one text at one target (a bitmap, or the mean over precisions), and later one text with all that was
found for it, which is read at every bitmap and under every draw.  What comes of an item is a function of (seed, text,
target) alone, so it does not matter which actor does it.  Each is appended to its record as it arrives: a run that was
killed goes on with what is missing.  A text whose attack or judgement raises is skipped, and counted with its reason;
the rest goes on.

With ``at_once`` above 1 an item has so many texts, which are attacked in the same forward passes.  They are neighbors
in the list of all texts, whatever of it is done already, so it still does not matter who does them and when.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from orchestrate.cluster.evaluation_pool import pool_of, threads_of
from orchestrate.config.sections import WorkersConfig
from orchestrate.runs.layout import ATTACK_JUDGED, ATTACK_RECORD, ATTACK_SKIPPED
from qalof.attacks.attack import AttackSettings, attack_at
from qalof.attacks.examples import oracle_of
from qalof.attacks.meaning import Meaning
from qalof.attacks.methods.substitution import WordAttack
from qalof.attacks.methods.together import together_at
from qalof.attacks.result import AttackExample, AttackResult
from qalof.attacks.robustness.adaptive import Expectation
from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.attacks.robustness.transfer import DrawTable, PredictionTable, draw_table, prediction_table
from qalof.attacks.substitutes.sentence_encoder import similarity_of
from qalof.bitmap import Bitmap
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.digests import content_digest
from qalof.errors import BadInputError
from qalof.files import append_lines, read_whole_lines
from qalof.model.pretrained import HeadKind, load_pretrained
from qalof.model.shared_memory import share_large

Target = Bitmap | Expectation
"""What a text is attacked at."""

Together = tuple[tuple[AttackExample, ...], Target]
"""Texts that are attacked together, at one target."""

OnDone = Callable[[int, int, str], None]
"""A function that is called with (done, total, what was done)."""


def name_of(target: Target) -> str:
    """Return what the record says of a target."""
    return target.name if isinstance(target, Expectation) else str(target)


@dataclass(frozen=True)
class Plan:
    """All that an actor must know; it is sent to each."""

    opened: OpenCheckpoint
    settings: AttackSettings
    bitmaps: tuple[Bitmap, ...]
    defenses: tuple[RandomPrecision, ...]
    adaptive: tuple[Expectation, ...]
    """The mean that an attacker takes who knows each defense; empty where there is no such attacker."""
    draws: int
    seed: int
    encoder: str
    """What judges similarity; see :func:`qalof.attacks.substitutes.sentence_encoder.similarity_of`."""
    at_once: int = 1
    """How many texts are attacked in the same forward passes."""

    @property
    def targets(self) -> list[Target]:
        """Everything that texts are attacked at; equal means of several defenses are attacked once."""
        return [*self.bitmaps, *{each.name: each for each in self.adaptive}.values()]

    def key_of(self, results: Sequence[AttackResult]) -> str:
        """Return a digest of what a judgement depends on besides the model."""
        drawn = [defense.to_json() for defense in self.defenses]
        texts = [[result.original_text, result.valid_text, result.label, result.target] for result in results]
        return content_digest(texts, drawn, self.draws, [str(bitmap) for bitmap in self.bitmaps])


@dataclass(frozen=True)
class Skipped:
    """A text that could not be attacked or judged."""

    example_id: int
    reason: str


class AttackActor:
    """Holds a victim and, where the method asks for one, a plain language model."""

    def __init__(self, plan: Plan, threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        self._plan, settings = plan, plan.settings
        self._model, lm = plan.opened.model.to(device), None
        if settings.uses_lm:
            lm = load_pretrained(self._model.base.source, HeadKind.CAUSAL_LM).to(device)
        share_large(self._model)
        # built once, since some attacks go through the whole vocabulary, and on arrays that are shared by now
        self._tokenizer = plan.opened.task.tokenizer  # type: ignore[attr-defined]
        self._fixed = settings.build(self._model, self._tokenizer, lm, plan.seed)
        self._means = {
            each.name: settings.build(self._model, self._tokenizer, lm, plan.seed, each) for each in plan.adaptive
        }
        # a prompt that is searched for means nothing, so only texts have a similarity to what they were
        similarity = None if lm is None else similarity_of(plan.encoder, lm, self._tokenizer, "cosine")
        self._meaning = Meaning(similarity, oracle_of(plan.opened.task))

    def do(self, item: Together | list[AttackResult]) -> list[AttackResult | Skipped] | dict[str, Any] | Skipped:
        """Attack texts at one target, or judge what was found for one text."""
        if isinstance(item, tuple):
            return self._attack(*item)
        found = _outcome(partial(self._judge, item))
        return found if isinstance(found, dict) else _skipped(item[0].example_id, found)

    def _attack(self, examples: Sequence[AttackExample], target: Target) -> list[AttackResult | Skipped]:
        at, attack = (None, self._means[target.name]) if isinstance(target, Expectation) else (target, self._fixed)
        if isinstance(attack, WordAttack) and self._plan.at_once > 1:
            found = together_at(at, self._model, attack, examples, self._plan.at_once)
        else:
            found = [_outcome(partial(attack_at, at, self._model, attack, example)) for example in examples]
        judged = [
            _outcome(partial(self._meaning.judged, one)) if isinstance(one, AttackResult) else one for one in found
        ]
        return [
            one if isinstance(one, AttackResult) else _skipped(example.id, one)
            for example, one in zip(examples, judged, strict=True)
        ]

    def _judge(self, results: list[AttackResult]) -> dict[str, Any]:
        plan, count = self._plan, len(self._plan.bitmaps)
        judge = plan.settings.judge(self._model, self._tokenizer)
        fixed = prediction_table(judge, [[result] for result in results[:count]], plan.bitmaps)
        drawn = [draw_table(judge, [[result] for result in results], each, plan.draws) for each in plan.defenses]
        return {
            "example_id": results[0].example_id, "key": plan.key_of(results), "label": results[0].label,
            "clean": fixed.clean[0].tolist(), "fixed": fixed.adversarial[:, 0].tolist(),
            "drawn": [{"clean": one.clean[0].tolist(), "texts": one.adversarial[:, 0].tolist()} for one in drawn],
        }  # fmt: skip


Done = TypeVar("Done")


def _outcome(work: Callable[[], Done]) -> Done | Exception:
    """Return what work gives or raises; what a text is to blame for is told apart by :func:`_skipped`."""
    try:
        return work()
    except Exception as error:
        return error


def _skipped(example: int, error: Exception) -> Skipped:
    """Return the text as skipped, or raise what no text is to blame for."""
    of_text = isinstance(error, BadInputError | RuntimeError | ValueError | IndexError | KeyError)
    if not of_text or isinstance(error, torch.OutOfMemoryError):
        raise error
    return Skipped(example, f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class Found:
    """What an attack and its judgement came to."""

    examples: list[AttackExample]
    """The texts that were attacked at every target and judged."""
    results: Mapping[str, list[AttackResult]]
    """The results by target, in the order of the texts."""
    table: PredictionTable
    """The answers at every bitmap."""
    drawn: list[DrawTable]
    """The answers under each defense's draws, to the texts of every target."""
    skipped: Mapping[int, str]
    """Why a text was skipped, by its id."""


def attack_and_judge(
    plan: Plan, examples: Sequence[AttackExample], workers: WorkersConfig, folder: Path, on_done: OnDone | None = None
) -> Found:
    """Attack every text at every target, and judge what was found; Ray is connected already.

    Raises:
        BadInputError: a record is damaged, or no text is left.
    """
    record = _Record(folder)
    chunks = [tuple(examples[start : start + plan.at_once]) for start in range(0, len(examples), plan.at_once)]
    items = [(chunk, target) for target in plan.targets for chunk in chunks]
    missing = [item for item in items if not all(record.has(example, item[1]) for example in item[0])]
    total = (len(plan.targets) + 1) * len(examples)
    done = sum(record.has(example, target) for target in plan.targets for example in examples)

    def tell(kind: str, found: Any) -> None:
        nonlocal done
        record.add(found)
        done += 1
        if on_done:
            on_done(done, total, _line(kind, found))

    def attacked(index: int, found: list[AttackResult | Skipped]) -> None:
        chunk, target = missing[index]
        for example, one in zip(chunk, found, strict=True):
            if not record.has(example, target):  # others of its chunk were done when the run was cut off
                tell("attack", one)

    size = min(workers.count, max(1, len(missing) + len(examples)))
    made = _Lazy(lambda: pool_of(AttackActor, workers, plan, threads_of(workers), workers.device, size=size))
    with closing(made) as pool:
        pool.map(missing, attacked)
        whole = {each.id: record.of(each, plan.targets) for each in examples if each.id not in record.skipped}
        judged = [results for results in whole.values() if not record.is_judged(plan, results)]
        done = total - len(judged)
        pool.map(judged, lambda _, found: tell("judge", found))
    return _found(plan, [each for each in examples if each.id not in record.skipped], record)


def _found(plan: Plan, examples: list[AttackExample], record: _Record) -> Found:
    if not examples:
        why = next(iter(record.skipped.values()))
        raise BadInputError(f"an attack needs at least one text that can be attacked and judged: all failed; {why}")
    rows = [record.judged[example.id] for example in examples]
    results = {name_of(t): [record.attacks[e.id, name_of(t)] for e in examples] for t in plan.targets}
    table = PredictionTable.of_rows(
        [str(bitmap) for bitmap in plan.bitmaps],
        *([row[part] for row in rows] for part in ("label", "clean", "fixed")),
    )
    drawn = [
        DrawTable.of_rows(*([row["drawn"][index][part] for row in rows] for part in ("clean", "texts")))
        for index in range(len(plan.defenses))
    ]
    return Found(examples, results, table, drawn, record.skipped)


def _line(kind: str, found: Any) -> str:
    if isinstance(found, Skipped):
        return f"text {found.example_id} skipped: {found.reason}"
    return f"text {found.example_id}: {found.status}" if kind == "attack" else f"text {found['example_id']} judged"


class _Lazy:
    """A pool that is made when there is something to do, and serves both rounds."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._pool: Any = None

    def map(self, items: Sequence[Any], on_result: Callable[[int, Any], None]) -> None:
        if items:
            self._pool = self._pool or self._make()
            self._pool.map(list(items), on_result)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()


class _Record:
    """The records of a run as JSON lines; a line that a kill tore off is dropped."""

    def __init__(self, folder: Path) -> None:
        self._attacks, self._judged, self._skipped = (
            folder / name for name in (ATTACK_RECORD, ATTACK_JUDGED, ATTACK_SKIPPED)
        )
        found = [AttackResult.from_json(row) for row in _rows(self._attacks)]
        self.attacks = {(result.example_id, result.bitmap): result for result in found}
        self.judged = {row["example_id"]: row for row in _rows(self._judged)}
        self.skipped = {int(row["example_id"]): str(row["reason"]) for row in _rows(self._skipped)}

    def has(self, example: AttackExample, target: Target) -> bool:
        return example.id in self.skipped or (example.id, name_of(target)) in self.attacks

    def of(self, example: AttackExample, targets: Sequence[Target]) -> list[AttackResult]:
        return [self.attacks[example.id, name_of(target)] for target in targets]

    def is_judged(self, plan: Plan, results: Sequence[AttackResult]) -> bool:
        row = self.judged.get(results[0].example_id)
        return row is not None and row["key"] == plan.key_of(results)

    def add(self, found: AttackResult | Skipped | dict[str, Any]) -> None:
        if isinstance(found, AttackResult):
            self.attacks[found.example_id, found.bitmap] = found
            append_lines(self._attacks, [json.dumps(found.to_json())])
        elif isinstance(found, Skipped):
            self.skipped.setdefault(found.example_id, found.reason)
            append_lines(self._skipped, [json.dumps({"example_id": found.example_id, "reason": found.reason})])
        else:
            self.judged[found["example_id"]] = found
            append_lines(self._judged, [json.dumps(found)])


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    for line in read_whole_lines(path):
        if not line:
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInputError(f"attack record {path} is damaged ({error}); delete it to attack again") from None
