"""Training with one worker in this very process: the same loop as on Ray Train, without starting anything.

It suits tiny models, for which processes that start and import torch take most of the time.  The loop is
:class:`qalof.training.loop.Trainer` either way, so the weights are those of one worker on Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from orchestrate.cluster.evaluation_pool import threads_of
from orchestrate.config.build import TrainComponents
from orchestrate.config.loader import to_plain
from orchestrate.config.train import TrainConfig
from orchestrate.jobs.train.best_checkpoint import SCORE, watched
from orchestrate.jobs.train.steps import Post, run_steps
from orchestrate.jobs.train.storage import Kept, keep_best, whole_ones
from orchestrate.jobs.train.validation import curves_of
from qalof.checkpoint.trainer import begin, save_checkpoint
from qalof.files import tidy
from qalof.tasks.factory import describe_task


def train_in_process(
    config: TrainConfig, parts: TrainComponents, target: Path, place: Path, on_posts: Callable[[list[Post]], None]
) -> Kept | None:
    """Train ``parts`` as they were built, or go on from the checkpoint at ``target``, where the last one is kept.

    Returns:
        The best checkpoint, at ``place``, where the config has ``keep_best``; otherwise None.

    Raises:
        NonFiniteLossError: the loss is not finite; the last good checkpoint, if there is one, is at ``target``.
    """
    torch.set_num_threads(threads_of(config.workers))
    trainer = parts.trainer(config.training, config.workers.device)
    for folder in (target, place):
        tidy(folder)
    begin(trainer, target if target.exists() else None)
    extra = {"task": describe_task(parts.task), "config": to_plain(config)}
    seen = watched(config, parts.model, parts.task)

    def best() -> Kept | None:
        if seen is None:
            return None
        return keep_best(whole_ones(folder for folder in (place, target) if folder.exists()), place)

    def on_checkpoint(posts: Sequence[Post], score: float | None) -> None:
        save_checkpoint(trainer, target, {**extra, SCORE: score})
        best()

    best()  # a kill may have fallen between a checkpoint and its copy
    run_steps(trainer, seen, curves_of(config, parts.model), lambda post: on_posts([post]), on_checkpoint)
    return best()
