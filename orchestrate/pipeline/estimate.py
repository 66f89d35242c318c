"""What each step of a pipeline would cost."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrate.config.train import TrainConfig
from orchestrate.document.estimate import Estimate
from orchestrate.document.planned_step import PlannedStep, owner_of
from orchestrate.jobs.registry import JOBS


def estimate(step: PlannedStep, steps: Sequence[PlannedStep]) -> Estimate | None:
    """Estimate what a step would cost; None where it cannot be known, as on a checkpoint that no step trains."""
    owner = owner_of(step, steps)
    trained = owner.config if owner is not None else None
    assert trained is None or isinstance(trained, TrainConfig)
    found: Estimate | None = JOBS[step.command].estimate(step, trained)
    return found
