"""Training on Ray Train: N workers, one flat all-reduce a step, checkpoints through ``ray.train.report``.

The driver checks everything first, then starts the workers; each assembles its own model from the plain config and
runs :class:`qalof.training.loop.Trainer` on its share of every global batch.  A report is a barrier, so it is
made at checkpoints alone; losses travel over the board.

A worker that dies takes its group with it, and the group goes on from the last registered checkpoint; so does a
whole job that was killed and is started again by the same command.  A non-finite loss is the same on all workers and
would come back on every retry, so the loop *returns* it and the driver raises.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.actor import ActorHandle
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from orchestrate.assemble import Parts, assemble_training
from orchestrate.board import watched_board
from orchestrate.cluster import cpus_per_worker, worker_environment
from orchestrate.config import TrainConfig
from orchestrate.config_file import to_plain, validate
from orchestrate.evaluation_pool import threads_of
from orchestrate.progress import report
from orchestrate.run_directory import RunDirectory
from orchestrate.tracking import Run
from orchestrate.train_here import train_here
from qalof.errors import BadInputError, NonFiniteLossError, QalofError
from qalof.tasks.factory import describe_task
from qalof.training.checkpoint import load_checkpoint, save_checkpoint
from qalof.training.loop import ProcessGroup, StepReport, Trainer

RAY_FOLDER = "ray"
CHECKPOINT = "checkpoint"
LOSSES = "losses.jsonl"
"""One line a step: step, learning_rate, losses by bitmap.  A resumed run repeats steps; the last line of one counts."""


def check(config: TrainConfig) -> Parts:
    """Everything that can be wrong with a training run, found without a worker.

    Raises:
        BadInputError: see :func:`orchestrate.assemble.assemble_training`; also a batch that the workers cannot share.
    """
    parts = assemble_training(config)
    batch, workers = config.training.batch_size, config.workers.count
    if batch % workers:
        raise BadInputError(f"workers.count must divide training.batch_size: got {workers} for {batch}")
    parts.task.train_features()
    return parts


def train(config: TrainConfig, directory: RunDirectory, run: Run) -> Path:
    """Train, or go on training, in ``directory``; Ray is connected already, unless it is in process.

    Returns:
        The folder of the final checkpoint, ``directory/checkpoint``.

    Raises:
        NonFiniteLossError: the loss; the last good checkpoint is at ``directory/checkpoint``.
        QalofError: workers died more than ``workers.max_failures`` times.
    """
    steps = config.training.steps
    with report("train", steps) as progress:

        def show(posts: list[StepReport]) -> None:
            _append(directory.path / LOSSES, posts)
            run.log_series([(p.step, _as_metrics(p)) for p in posts])
            if posts:
                last = posts[-1]
                progress.update(last.step + 1, "  ".join(f"{b}: {loss:.3f}" for b, loss in last.losses.items()))

        if config.workers.in_process:
            train_here(config, directory.path / CHECKPOINT, show)
            return directory.path / CHECKPOINT
        with watched_board(show) as board:
            result = _fit(config, directory, board)
    outcome: Mapping[str, Any] = result.return_value or {}
    target = directory.path / CHECKPOINT
    if result.checkpoint is not None:
        _copy(Path(result.checkpoint.path), target)
    if error := outcome.get("error"):
        raise NonFiniteLossError(*error)
    return target


def _fit(config: TrainConfig, directory: RunDirectory, board: ActorHandle) -> ray.train.Result:
    workers = config.workers
    resources = {"GPU": 1.0} if workers.gpu else {"CPU": cpus_per_worker(workers.count, ray.cluster_resources()["CPU"])}
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"config": to_plain(config), "board": board},
        scaling_config=ScalingConfig(num_workers=workers.count, use_gpu=workers.gpu, resources_per_worker=resources),
        torch_config=TorchConfig(backend="nccl" if workers.gpu else "gloo", timeout_s=600),
        run_config=RunConfig(
            name="train",
            storage_path=str(directory.path / RAY_FOLDER),
            # without a limit of its own the controller would wait for missing CPUs for ever
            failure_config=FailureConfig(max_failures=workers.max_failures, controller_failure_limit=1),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": worker_environment(workers.count)},
        ),
    )
    try:
        return trainer.fit()
    except WorkerGroupError as error:
        causes = list(error.worker_failures.values())
        for cause in causes:
            if isinstance(cause, QalofError):
                raise cause from None
        raise QalofError(
            f"training workers failed more than {workers.max_failures} times, last by "
            f"{type(causes[0]).__name__}: {str(causes[0]).strip().splitlines()[-1]}; "
            "the same command goes on from the last checkpoint"
        ) from error


def _worker(settings: dict[str, Any]) -> dict[str, Any]:
    """One worker's life; ``settings``: plain config and the board."""
    config = validate(TrainConfig, settings["config"], "the config")
    torch.set_num_threads(threads_of(config.workers))
    parts = assemble_training(config)
    parts.model.to(get_device())
    trainer = Trainer(parts.model, parts.task, parts.objective, config.training, ProcessGroup())
    if (last := ray.train.get_checkpoint()) is not None:
        with last.as_directory() as folder:
            load_checkpoint(trainer, Path(folder))
    else:
        trainer.calibrate()
    extra = {"task": describe_task(parts.task), "config": settings["config"]}
    board: ActorHandle = settings["board"]
    while trainer.step < config.training.steps:
        try:
            done = trainer.train_step()
        except NonFiniteLossError as error:
            return {"error": (error.step, error.bitmap, error.value)}
        if trainer.world.rank == 0:
            board.post.remote(done)
        if trainer.step % config.training.checkpoint_every == 0 or trainer.step == config.training.steps:
            _report(trainer, done, extra)
    return {}


def _report(trainer: Trainer, done: StepReport, extra: Mapping[str, Any]) -> None:
    metrics = {"step": trainer.step, **_as_metrics(done)}
    if trainer.world.rank != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / CHECKPOINT
        save_checkpoint(trainer, target, extra)
        checkpoint = Checkpoint.from_directory(str(target))
        ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=f"step-{trainer.step:06d}")


def _append(path: Path, posts: Sequence[StepReport]) -> None:
    lines = "".join(json.dumps(asdict(post)) + "\n" for post in posts)
    with path.open("a", encoding="utf-8") as file:
        file.write(lines)


def _as_metrics(done: StepReport) -> dict[str, float]:
    losses = {f"train.loss.{bitmap}": loss for bitmap, loss in done.losses.items()}
    return {"train.learning_rate": done.learning_rate, **losses}


def _copy(source: Path, target: Path) -> None:
    beside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    shutil.copytree(source, beside, dirs_exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    beside.chmod(0o755)
    beside.replace(target)
