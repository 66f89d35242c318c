"""Training on Ray Train: N workers, one flat all-reduce per step, and checkpoints through ``ray.train.report``.

Each worker builds its own model from the plain config and runs :class:`qalof.training.loop.Trainer` on its share of
every global batch (see :mod:`orchestrate.jobs.train.worker`).

A worker that dies takes its group with it, and the group goes on from the last registered checkpoint; Train's
controller is started again in the same way, and so is a whole job that was killed, by the same command.  Where
``workers.min_count`` is given, the group that comes back is as large as the cluster then allows (Ray's elastic
training): a step's examples and learning rate do not depend on the number of workers, but its dropout masks do.
:mod:`orchestrate.cluster.failure_policy` says how often.  An error of the work itself is not repeated but raised by the
driver.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue

from orchestrate.cluster.admission import Request, admitted, told_what_is_missing
from orchestrate.cluster.carried_error import error_of_text
from orchestrate.cluster.connection import worker_environment
from orchestrate.cluster.failure_policy import Decision, Failure, FailurePolicy
from orchestrate.cluster.progress_queue import watched_queue
from orchestrate.config.loader import to_plain
from orchestrate.config.sections import WorkersConfig
from orchestrate.config.train import TrainConfig
from orchestrate.jobs.train.best_checkpoint import SCORE
from orchestrate.jobs.train.losses import unrecorded
from orchestrate.jobs.train.steps import Post
from orchestrate.jobs.train.storage import NAME, Kept, keep_best, kept_checkpoints, prepare
from orchestrate.jobs.train.validation import kept_validation
from orchestrate.jobs.train.worker import work
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import LOSSES
from orchestrate.runs.progress import say
from qalof.errors import QalofError
from qalof.files import copy_folder, tidy
from qalof.reading import first_line

RAY_FOLDER = "ray"
_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


def train_on_ray(
    config: TrainConfig,
    directory: RunDirectory,
    target: Path,
    place: Path,
    on_posts: Callable[[list[Post]], None],
) -> Kept | None:
    """Train, or go on training, on Ray, which is connected already; the last checkpoint goes to ``target``.

    Args:
        config: the config of the run.
        directory: the run directory, where Ray Train has its storage.
        target: the folder of the last checkpoint.
        place: the folder of the best checkpoint.
        on_posts: takes the metrics of steps and scores, a few at a time.

    Returns:
        The best checkpoint, at ``place``, where the config has ``keep_best``; otherwise None.

    Raises:
        Exception: what the work raised, as it was raised; the last good checkpoint, if there is one, is at ``target``.
        QalofError: workers, or the controller, died more than ``workers.max_failures`` times.
    """
    on_posts(_lost(directory))
    with watched_queue(on_posts) as queue:
        outcome = _fit_through(config, directory, queue)
    on_posts(_lost(directory))  # a queue that died took steps with it, and the last ones may still be on their way
    found = kept_checkpoints(_storage(directory))
    tidy(target)
    if found:
        copy_folder(found[-1].folder, target)
    best = keep_best(found, place)
    if error := outcome.get("error"):
        raise error_of_text(error)
    return best


def _lost(directory: RunDirectory) -> list[Post]:
    """Return the steps up to the last checkpoint whose losses are not on record, and all scores up to there."""
    storage = _storage(directory)
    found = kept_checkpoints(storage)
    until = found[-1].step if found else 0
    return [*unrecorded(directory.path / LOSSES, storage, until), *kept_validation(storage, until)]


def _storage(directory: RunDirectory) -> Path:
    return directory.path / RAY_FOLDER / NAME


def _fit_through(config: TrainConfig, directory: RunDirectory, queue: Queue) -> Mapping[str, Any]:
    """Fit, once more each time the controller is lost, and return what rank 0 returned."""
    policy, lost = FailurePolicy(config.workers.max_failures), 0
    while True:
        try:
            return _fit(config, directory, queue).return_value or {}
        except RayActorError as error:
            lost += 1
            if policy.decide(Failure.CUT_OFF, lost) is Decision.GIVE_UP:
                raise policy.exhausted("the training controller", first_line(error)) from error
            say(f"the training controller was lost ({lost}); going on from the last checkpoint")


def _fit(config: TrainConfig, directory: RunDirectory, queue: Queue) -> ray.train.Result:
    workers, request = config.workers, admitted(config.workers)
    storage = _storage(directory)
    last = prepare(storage)
    ranked = {} if config.keep_best is None else {"checkpoint_score_attribute": SCORE}
    trainer = TorchTrainer(
        work,
        train_loop_config={
            "config": to_plain(config),
            "queue": queue,
            "storage": str(storage),
            "resume_from": None if last is None else str(last),
        },
        scaling_config=_scaling(workers, request),
        torch_config=TorchConfig(backend="nccl" if workers.gpu else "gloo", timeout_s=600),
        run_config=RunConfig(
            name=NAME,
            storage_path=str(storage.parent),
            # without such a limit the controller would wait forever for missing CPUs
            failure_config=FailureConfig(
                max_failures=workers.max_failures, controller_failure_limit=1 if workers.min_count is None else 5
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=2, **ranked),
            logging_config=LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": worker_environment(workers.count)},
        ),
    )
    try:
        with _start_timeout(workers), told_what_is_missing(request):
            return trainer.fit()
    except WorkerGroupError as error:
        raise _worker_failure(error, workers) from error
    except ControllerError as error:
        reason = str(error.controller_failure).strip().splitlines()[-1]
        raise QalofError(
            f"training cannot be run on this cluster: {reason}; the same command goes on from the last checkpoint"
        ) from error


def _scaling(workers: WorkersConfig, request: Request) -> ScalingConfig:
    count = request.count if workers.min_count is None else (request.least, request.count)
    return ScalingConfig(num_workers=count, use_gpu=workers.gpu, resources_per_worker=dict(request.each))


@contextmanager
def _start_timeout(workers: WorkersConfig) -> Iterator[None]:
    """Choose a shorter time for an elastic group, since Ray counts a lost node for up to 20 s more and waits for it all
    the while.
    """
    before = os.environ.get(_START_TIMEOUT)
    if workers.min_count is not None:
        os.environ[_START_TIMEOUT] = "20"
    try:
        yield
    finally:
        os.environ.pop(_START_TIMEOUT, None)
        os.environ.update({} if before is None else {_START_TIMEOUT: before})


def _worker_failure(error: WorkerGroupError, workers: WorkersConfig) -> QalofError:
    """Find what ended the group for good: an error of ours as it was raised, or one that names the last cause."""
    causes = list(error.worker_failures.values())
    for cause in causes:
        if isinstance(cause, QalofError):
            return cause
    reason = f"{type(causes[0]).__name__}: {str(causes[0]).strip().splitlines()[-1]}"
    return FailurePolicy(workers.max_failures).exhausted("a group of training workers", reason)
