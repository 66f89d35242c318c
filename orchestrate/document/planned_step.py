"""A planned step of a pipeline, and what it works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrate.config.sections import JobConfig
from orchestrate.config.train import TrainConfig
from orchestrate.runs.layout import CHECKPOINT


def bitmap_specs(step: PlannedStep) -> list[Any]:
    """Return the bitmaps that a step scores, as its config writes them; there are none where it leaves them to the
    checkpoint.
    """
    section: Any = step.config
    if isinstance(section, TrainConfig):
        section = section.evaluation
    return list(getattr(section, "bitmaps", None) or [])


@dataclass(frozen=True)
class PlannedStep:
    """A step with its validated config and its run directory; ``waits`` says whether it needs files of another step."""

    name: str
    command: str
    config: JobConfig
    folder: Path
    shared: bool = False
    waits: bool = False


def owner_of(step: PlannedStep, steps: Sequence[PlannedStep]) -> PlannedStep | None:
    """Return the training step whose checkpoint ``step`` takes; ``step`` itself if it trains, None if none of ``steps``
    does.
    """
    if step.command == "train":
        return step
    checkpoint = getattr(step.config, "checkpoint", None)
    return next((s for s in steps if s.command == "train" and str(s.folder / CHECKPOINT) == checkpoint), None)
