"""Training with one worker in this very process: the same loop as on Ray Train, without starting anything.

For tiny models, where processes that start and import torch take most of the time.  The loop is
:class:`qalof.training.loop.Trainer` either way, so that the weights are those of one worker on Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from orchestrate.assemble import assemble_training
from orchestrate.config import TrainConfig
from orchestrate.config_file import to_plain
from orchestrate.evaluation_pool import threads_of
from qalof.tasks.factory import describe_task
from qalof.training.checkpoint import begin, save_checkpoint
from qalof.training.loop import StepReport, Trainer


def train_here(config: TrainConfig, target: Path, on_step: Callable[[list[StepReport]], None]) -> None:
    """Train, or go on from the checkpoint at ``target``, where checkpoints are kept.

    Raises:
        NonFiniteLossError: the loss; the last good checkpoint, if any, is at ``target``.
    """
    torch.set_num_threads(threads_of(config.workers))
    parts = assemble_training(config)
    parts.model.to("cuda" if config.workers.gpu else "cpu")
    trainer = Trainer(parts.model, parts.task, parts.objective, config.training)
    begin(trainer, target if target.exists() else None)
    extra = {"task": describe_task(parts.task), "config": to_plain(config)}
    steps, every = config.training.steps, config.training.checkpoint_every
    while trainer.step < steps:
        done = trainer.train_step()
        on_step([done])
        if trainer.step % every == 0 or trainer.step == steps:
            save_checkpoint(trainer, target, extra)
