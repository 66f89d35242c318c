"""Training: everything is checked first, then the work is done in this process or on Ray Train.

:mod:`orchestrate.jobs.train.in_process` and :mod:`orchestrate.jobs.train.on_ray` do the same steps; only the second
imports Ray, which takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrate.config.build import TrainComponents, build_training
from orchestrate.config.train import TrainConfig
from orchestrate.jobs.shared.labels import tell_labels
from orchestrate.jobs.train.best_checkpoint import Watched, watched
from orchestrate.jobs.train.in_process import train_in_process
from orchestrate.jobs.train.losses import lines_of
from orchestrate.jobs.train.steps import Post, as_metrics, parted
from orchestrate.jobs.train.storage import Kept
from orchestrate.jobs.train.validation import as_series, curves_of, record_validation
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import BEST_CHECKPOINT, CHECKPOINT, LOSSES, VALIDATION
from orchestrate.runs.mlflow_tracker import Run
from orchestrate.runs.progress import progress_bar
from qalof.bitmap_names import short_name
from qalof.errors import BadInputError
from qalof.files import append_lines


@dataclass(frozen=True)
class Trained:
    """What training leaves: the folder of the last checkpoint, and for ``keep_best`` the folder, step, metric and value
    of the best.
    """

    checkpoint: Path
    best: dict[str, Any] | None


def check(config: TrainConfig) -> TrainComponents:
    """Find everything that can be wrong with a training run, without a worker.

    Raises:
        BadInputError: see :func:`orchestrate.config.build.build_training`; or the workers cannot share a batch.
    """
    parts = build_training(config)
    batch, workers = config.training.batch_size, config.workers.count
    if batch % workers:
        raise BadInputError(f"workers.count must divide training.batch_size: got {workers} for {batch}")
    watched(config, parts.model, parts.task)
    curves_of(config, parts.model)
    parts.task.train_features()
    tell_labels(parts.task)
    return parts


def train(config: TrainConfig, parts: TrainComponents, directory: RunDirectory, run: Run) -> Trained:
    """Train, or go on training, in ``directory``; Ray is connected already, unless the work is in process.

    Args:
        config: the config of the run.
        parts: the driver's own model, task and objective, from :func:`check`.
        directory: the run directory.
        run: the run in MLflow.

    Returns:
        The folders ``directory/checkpoint`` and, where asked for, ``directory/checkpoint_best``.

    Raises:
        NonFiniteLossError: the loss is not finite; the last good checkpoint is at ``directory/checkpoint``.
        DiskError: the disk takes no more; earlier checkpoints stay.
        QalofError: what the work raised; or workers, or the controller, died more than ``workers.max_failures`` times.
    """
    steps = config.training.steps
    with progress_bar("train", steps) as progress:

        def show(arrived: list[Post]) -> None:
            posts, scored = parted(arrived)
            if scored:
                run.log_series(as_series(record_validation(directory.path / VALIDATION, scored)))
            if not posts:
                return
            append_lines(directory.path / LOSSES, lines_of(posts))
            run.log_series([(p.step, as_metrics(p)) for p in posts])
            last = posts[-1]
            progress.update(last.step + 1, "  ".join(f"{short_name(b)}: {loss:.3f}" for b, loss in last.losses.items()))

        seen = watched(config, parts.model, parts.task)
        target, place = directory.path / CHECKPOINT, directory.path / BEST_CHECKPOINT
        if config.workers.in_process:
            return _trained(seen, target, train_in_process(config, parts, target, place, show))
        from orchestrate.jobs.train.on_ray import train_on_ray

        return _trained(seen, target, train_on_ray(config, directory, target, place, show))


def _trained(seen: Watched | None, target: Path, best: Kept | None) -> Trained:
    if seen is None or best is None or best.score is None:
        return Trained(target, None)
    place = target.with_name(BEST_CHECKPOINT)
    chosen = {"checkpoint": str(place), "step": best.step, "metric": str(seen.objective)}
    chosen["value"] = seen.signed(best.score)
    return Trained(target, {**chosen, "bitmaps": [str(bitmap) for bitmap in seen.bitmaps], "limit": seen.limit})
