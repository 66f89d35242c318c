"""One trial of a sweep, in one process, which trains from score to score and goes on from its own folder.

    config.yaml   what is trained; `qalof train` takes it as it stands
    checkpoint/   sealed, after the last score; the scores so far are in its manifest
    losses.jsonl  one line per step

A trial that was killed reports its recorded scores again, as they were, and then goes on training, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import yaml

from orchestrate.config.build import TrainComponents, build_training
from orchestrate.config.loader import to_plain
from orchestrate.config.train import TrainConfig
from orchestrate.jobs.train.best_checkpoint import Watched, watched
from orchestrate.jobs.train.losses import lines_of
from orchestrate.jobs.train.validation import Scores
from orchestrate.runs.layout import CHECKPOINT, CONFIG, LOSSES
from qalof.checkpoint.manifest import read_manifest
from qalof.checkpoint.trainer import begin, save_checkpoint
from qalof.errors import NonFiniteLossError
from qalof.files import append_lines, tidy, write_text
from qalof.tasks.factory import describe_task
from qalof.training.loop import Trainer

State = Literal["running", "finished", "diverged", "stopped"]


@dataclass(frozen=True)
class Rung:
    """A trial after ``step`` steps; a better one has a higher ``score``, which is None where not finite; ``by_bitmap``
    is as measured.
    """

    step: int
    score: float | None
    by_bitmap: Mapping[str, float | None]
    state: State

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rung:
        """Read what :func:`dataclasses.asdict` made."""
        return cls(data["step"], data["score"], data["by_bitmap"], data["state"])


class TrialRun:
    """A trial in its folder.

    Args:
        folder: the trial's folder, which is made if it is missing.
        config: the config of the trial, with ``keep_best``.
        report_every: how many training steps lie between scores.
        device: where the model goes, by torch's name.
    """

    def __init__(self, folder: Path, config: TrainConfig, report_every: int, device: str = "cpu") -> None:
        self.folder, self.config, self.report_every = folder, config, report_every
        self._device = device
        self._checkpoint = folder / CHECKPOINT
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / CONFIG, yaml.safe_dump(to_plain(config), sort_keys=False))
        tidy(self._checkpoint)
        self._reports: list[Rung] = []
        if self._checkpoint.is_dir():
            self._reports = [Rung.from_json(entry) for entry in read_manifest(self._checkpoint)["extra"]["reports"]]
        self._told = 0
        self._built: tuple[TrainComponents, Trainer, Watched] | None = None

    def advance(self) -> Rung:
        """Train to the next score and return it; one that is recorded is returned without training."""
        if self._told == len(self._reports):
            self._train()
        self._told += 1
        return self._reports[self._told - 1]

    def _train(self) -> None:
        parts, trainer, seen = self._built = self._built or self._build()
        until = min(self.config.training.steps, (trainer.step // self.report_every + 1) * self.report_every)
        posts = []
        try:
            while trainer.step < until:
                posts.append(trainer.train_step())
        except NonFiniteLossError as error:
            self._reports.append(Rung(error.step, None, {}, "diverged"))
        else:
            losses = [fmean(post.losses.values()) for post in posts]
            score, values = seen.measure(Scores(parts.model, parts.task, trainer.world), losses)
            state: State = "finished" if until == self.config.training.steps else "running"
            self._reports.append(Rung(until, score, values, state))
        append_lines(self.folder / LOSSES, lines_of(posts))
        extra = {"task": describe_task(parts.task), "config": to_plain(self.config)}
        save_checkpoint(trainer, self._checkpoint, {**extra, "reports": [asdict(r) for r in self._reports]})

    def _build(self) -> tuple[TrainComponents, Trainer, Watched]:
        parts = build_training(self.config)
        trainer = parts.trainer(self.config.training, self._device)
        seen = watched(self.config, parts.model, parts.task)
        assert seen is not None
        begin(trainer, self._checkpoint if self._checkpoint.is_dir() else None)
        return parts, trainer, seen
