"""What every stage of the study is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from measure import processor

from study.data import AnswerLoss, PreparedCompletion
from study.scales import Scale

FULL = "w32a32kv32"
CPU_BATCH = 8
"""Sequences that a CPU scores at once."""


class Ends(Protocol):
    """A clock: :class:`study.clock.Clock`, or a test's."""

    @property
    def out(self) -> bool:
        """Whether the time is over."""
        ...

    def check(self) -> None:
        """Raise :class:`study.clock.OutOfTimeError` if it is."""
        ...


@dataclass(frozen=True)
class Place:
    """Where a study runs, and of what."""

    source: str
    """The pretrained model."""
    scale: Scale
    data: Path
    state: Path
    device: torch.device
    clock: Ends
    done: Mapping[str, Any] = field(default_factory=dict)
    """The results of the stages that were finished before, by name."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Digests of the inputs of all stages, by name."""

    def path(self, stage: str) -> Path:
        """Where a stage's own folder is; other inputs have another one, so nothing of theirs is gone on with."""
        return self.state / stage / self.keys[stage][:12]

    def folder(self, stage: str) -> Path:
        """A stage's own folder, which is there then."""
        folder = self.path(stage)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def machine(self) -> str:
        """The device that results come from."""
        return str(torch.cuda.get_device_name(self.device)) if self.device.type == "cuda" else processor()

    def judge(self) -> PreparedCompletion:
        """The task that models are judged by."""
        return PreparedCompletion(self.data, self.source, self._batched)

    def losses(self) -> AnswerLoss:
        """The loss of the answers of the same questions."""
        return AnswerLoss(self.data, self.source, self._batched)

    def choose(self) -> AnswerLoss:
        """The task that a search chooses by."""
        return AnswerLoss(self.data, self.source, self._batched, "choose")

    @property
    def _batched(self) -> Scale:
        """The scale, with batches that a CPU's cache bears; no score depends on them."""
        most = self.scale.eval_batch if self.device.type == "cuda" else min(self.scale.eval_batch, CPU_BATCH)
        return replace(self.scale, eval_batch=most)

    @contextmanager
    def products(self) -> Iterator[None]:
        """The precision of products: that of the trainings, outside of these too."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.scale.precision == "bf16"):
            yield
