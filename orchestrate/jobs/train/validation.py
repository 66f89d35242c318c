"""Validation curves: scores at some bitmaps in the middle of training, and their record.

``validation.jsonl`` has one line per scored step: how many steps were done, how many examples were scored, and every
metric at every bitmap.  It is the driver's; the workers' scores reach it as their losses do
(:mod:`orchestrate.jobs.train.losses`), and what a kill lost comes from beside the checkpoints too.  A resumed run
scores steps again: a step that is on record already is replaced, so no step has two lines.

Each bitmap is scored whole by one worker, in the same parts and batches as everywhere, so for equal weights the scores
are the same numbers on any number of workers.  Nothing is drawn, and no weight, moment or observed range changes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from orchestrate.config.build import parse_bitmaps, trained_bitmaps
from orchestrate.config.train import TrainConfig
from orchestrate.document.findings import recorded, well_formed
from qalof.bitmap import Bitmap
from qalof.bitmap_names import short_name
from qalof.files import append_lines, json_ready, write_text
from qalof.metrics import described
from qalof.model.switchable import SwitchableModel
from qalof.tasks.base import Task
from qalof.tasks.parts import evaluate_in_parts
from qalof.training.loop import OneWorker, World

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Validation:
    """The scores after ``step`` steps: every metric at every bitmap, in the metric's own unit; None where it is not
    finite.
    """

    step: int
    examples: int
    scores: Mapping[str, Mapping[str, float | None]]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Validation:
        """Read what :func:`dataclasses.asdict` made."""
        scores = {
            str(bitmap): {str(name): None if value is None else float(value) for name, value in metrics.items()}
            for bitmap, metrics in data["scores"].items()
        }
        return cls(int(data["step"]), int(data["examples"]), scores)


@dataclass(frozen=True)
class Curves:
    """What is scored every ``every`` steps and after the last: ``bitmaps``, on the first ``limit`` examples."""

    every: int
    bitmaps: tuple[Bitmap, ...]
    limit: int | None

    def at(self, step: int, steps: int) -> bool:
        """Return whether a training of ``steps`` steps is scored after ``step`` of them."""
        return step % self.every == 0 or step == steps

    def measure(self, step: int, scores: Scores) -> Validation:
        """Score all bitmaps after ``step`` steps."""
        found = scores.at(self.bitmaps, self.limit)
        named: dict[str, Any] = {str(bitmap): metrics for bitmap, metrics in zip(self.bitmaps, found, strict=True)}
        return Validation(step, scores.examples, json_ready(named))


def curves_of(config: TrainConfig, model: SwitchableModel) -> Curves | None:
    """Read what ``validation`` asks for; None where it asks for nothing.

    Raises:
        BadInputError: a bitmap does not fit the model.
    """
    wanted = config.validation
    if wanted.evaluate_every == 0:
        return None
    specs = wanted.bitmaps or trained_bitmaps(config, model.sites)
    limit = config.evaluation.limit if wanted.limit is None else wanted.limit
    return Curves(wanted.evaluate_every, tuple(parse_bitmaps(specs, model.sites)), limit)


class Scores:
    """Scores of a model as it is, each made once, whoever asks for it.

    Args:
        model: the worker's own; all workers hold equal weights.
        task: the task to evaluate on.
        world: shares the bitmaps out among the workers, all of which ask for the same.
    """

    def __init__(self, model: SwitchableModel, task: Task, world: World | OneWorker) -> None:
        self._model, self._task, self._world = model, task, world
        self._names = [name for name in task.metrics if not described(name).on_request]
        self._known: dict[tuple[Bitmap, int | None], Metrics] = {}
        self.examples = 0
        """How many examples the last evaluation took."""

    def at(self, bitmaps: Sequence[Bitmap], limit: int | None) -> list[Metrics]:
        """Return every metric at each bitmap, on the first ``limit`` validation examples."""
        missing = [bitmap for bitmap in dict.fromkeys(bitmaps) if (bitmap, limit) not in self._known]
        if missing:
            self._known |= {(b, limit): found for b, found in zip(missing, self._measured(missing, limit), strict=True)}
        return [self._known[bitmap, limit] for bitmap in bitmaps]

    def _measured(self, bitmaps: Sequence[Bitmap], limit: int | None) -> list[Metrics]:
        self._model.eval()  # the trainer goes back to training by itself
        width = len(self._names)
        shared = torch.zeros(len(bitmaps), width + 1, dtype=torch.float64)
        for index in range(self._world.rank, len(bitmaps), self._world.size):
            self._model.set_bitmap(bitmaps[index])
            found = evaluate_in_parts(self._task, self._model, limit)
            values = [float(found.metrics.get(name, math.nan)) for name in self._names]
            shared[index] = torch.tensor([*values, found.examples], dtype=torch.float64)
        shared = shared.to(self._model.device)
        if self._world.size > 1:
            self._world.sum_in_place(shared)
        rows: list[list[float]] = shared.tolist()
        self.examples = round(rows[0][width])
        return [dict(zip(self._names, row[:width], strict=True)) for row in rows]


def read_validation(path: Path) -> tuple[Validation, ...]:
    """Read a record of scores, by step; there are none where there is no file, and a torn line does not count.

    Raises:
        BadInputError: a whole line has another form.
    """
    with well_formed(path, "record of validation"):
        found = {each.step: each for each in map(Validation.from_json, recorded(path))}
    return tuple(found[step] for step in sorted(found))


def record_validation(path: Path, new: Sequence[Validation]) -> list[Validation]:
    """Write scores into a record, in the place of those of the same steps, and return those that it did not have.

    Raises:
        DiskError: the disk takes no more; the record is as it was.
        BadInputError: a line of the record has another form.
    """
    known = {each.step: each for each in read_validation(path)}
    fresh = [each for each in new if known.get(each.step) != each]
    if not fresh:
        return []
    if all(step < each.step for each in fresh for step in known):
        append_lines(path, _lines(fresh))
        return fresh
    merged = known | {each.step: each for each in fresh}
    write_text(path, "".join(f"{line}\n" for line in _lines([merged[step] for step in sorted(merged)])))
    return fresh


def keep_validation(storage: Path, scored: Sequence[Validation], step: int) -> None:
    """Write the scores since the last checkpoint next to the checkpoints, before the one of ``step`` is saved."""
    if scored:
        write_text(storage / f"validation-{step:06d}.jsonl", "".join(f"{line}\n" for line in _lines(scored)))


def kept_validation(storage: Path, until: int) -> list[Validation]:
    """Find what :func:`keep_validation` wrote, up to the checkpoint of ``until`` steps, each step once and in order."""
    found = {each.step: each for path in sorted(storage.glob("validation-*.jsonl")) for each in read_validation(path)}
    return [found[step] for step in sorted(found) if step <= until]


def as_series(scored: Sequence[Validation]) -> Iterator[tuple[int, dict[str, float | None]]]:
    """Yield each step with its scores, under the names that the record of runs has, such as ``validation.f1.8``."""
    for each in scored:
        yield (
            each.step,
            {
                f"validation.{name}.{short_name(bitmap).lstrip('#')}": value
                for bitmap, metrics in each.scores.items()
                for name, value in metrics.items()
            },
        )


def _lines(scored: Sequence[Validation]) -> list[str]:
    return [json.dumps(asdict(each)) for each in scored]
