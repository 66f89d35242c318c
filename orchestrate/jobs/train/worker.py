"""One training worker's life: build, go on from a checkpoint or begin, step, report.

A report is a barrier, so it is made at checkpoints alone.  Losses and validation scores travel over a queue, and are
written next to each checkpoint too, since a queue is lost with its driver.

An error of one worker has to end the others, which wait for it, so it is raised; and Ray begins any group again whose
worker raised.  So an error of ours is left in the storage first, and a group that finds one there stops at once and
returns it.  Other errors are taken for what the loss of one worker does to the others, and repeated as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.torch import get_device
from ray.util.queue import Queue

from orchestrate.cluster.carried_error import error_as_text
from orchestrate.cluster.evaluation_pool import threads_of
from orchestrate.cluster.progress_queue import put
from orchestrate.config.build import build_training
from orchestrate.config.loader import validate
from orchestrate.config.train import TrainConfig
from orchestrate.jobs.train.best_checkpoint import SCORE, WORST, watched
from orchestrate.jobs.train.losses import keep_losses
from orchestrate.jobs.train.steps import Post, as_metrics, parted, run_steps
from orchestrate.jobs.train.storage import leave_error, left_error, step_folder
from orchestrate.jobs.train.validation import curves_of, keep_validation
from qalof.checkpoint.trainer import begin, save_checkpoint
from qalof.errors import NonFiniteLossError, QalofError
from qalof.tasks.factory import describe_task
from qalof.training.loop import ProcessGroup, Trainer


def work(settings: dict[str, Any]) -> dict[str, Any]:
    """Train to the end.

    Args:
        settings: ``config`` plain, ``queue``, ``storage`` of checkpoints, ``resume_from`` one of an earlier fit.

    Returns:
        An empty dictionary; or ``error``: what the work raised, here or in a group before this one, as text.

    Raises:
        QalofError: what the work raised; it is left in the storage.
    """
    storage = Path(settings["storage"])
    left = left_error(storage)
    if left is not None:
        return {"error": left}
    try:
        _train(settings)
    except NonFiniteLossError as error:
        return {"error": error_as_text(error)}  # the same on all workers, so no other waits
    except QalofError as error:
        leave_error(storage, error_as_text(error))
        raise
    return {}


def _train(settings: dict[str, Any]) -> None:
    config = validate(TrainConfig, settings["config"], "the config")
    torch.set_num_threads(threads_of(config.workers))
    parts = build_training(config)
    trainer = parts.trainer(config.training, get_device(), ProcessGroup())
    last = ray.train.get_checkpoint()  # a checkpoint of this fit; otherwise an earlier fit may have left one
    resume_from = settings["resume_from"] if last is None else last.path
    begin(trainer, None if resume_from is None else Path(resume_from))
    extra = {"task": describe_task(parts.task), "config": settings["config"]}
    seen = watched(config, parts.model, parts.task)
    queue: Queue = settings["queue"]

    def on_post(post: Post) -> None:
        if trainer.world.rank == 0:
            put(queue, post)

    def on_checkpoint(posts: Sequence[Post], score: float | None) -> None:
        _report(trainer, posts, {**extra, SCORE: score}, Path(settings["storage"]))

    run_steps(trainer, seen, curves_of(config, parts.model), on_post, on_checkpoint)


def _report(trainer: Trainer, posts: Sequence[Post], extra: Mapping[str, Any], storage: Path) -> None:
    score = WORST if extra[SCORE] is None else extra[SCORE]
    steps, scored = parted(posts)
    metrics = {"step": trainer.step, SCORE: score, **as_metrics(steps[-1])}
    if trainer.world.rank != 0:
        ray.train.report(metrics)
        return
    folder = step_folder(storage, trainer.step)
    keep_losses(storage, steps)
    keep_validation(storage, scored, trainer.step)
    save_checkpoint(trainer, folder, extra)
    checkpoint = Checkpoint.from_directory(str(folder))
    ray.train.report(metrics, checkpoint=checkpoint, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)
