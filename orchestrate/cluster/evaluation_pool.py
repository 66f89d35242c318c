"""Evaluation on Ray actors that each hold the model: a search's ``Evaluator``, in parallel."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from orchestrate.cluster.admission import Request, admitted, fitting, nodes_of
from orchestrate.cluster.connection import physical_cores, threads_per_worker
from orchestrate.cluster.failure_policy import FailurePolicy
from orchestrate.cluster.pool import ActorPool, LocalPool, Made, Pool
from orchestrate.config.sections import WorkersConfig
from qalof.attacks.robustness.adversarial_accuracy import (
    AdversarialAccuracy,
    AdversarialAccuracySettings,
    with_robustness,
)
from qalof.bitmap import Bitmap
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.digests import content_digest
from qalof.evaluation.result import Evaluation
from qalof.metrics import ADVERSARIAL_ACCURACY
from qalof.model.shared_memory import share_large
from qalof.model.switchable import SwitchableModel
from qalof.site import Site
from qalof.tasks.base import on_request
from qalof.tasks.parts import evaluate_in_parts, joined, parts_of
from search.measurement import Measurement, Taken
from search.scores.data import why_unscored


@dataclass(frozen=True)
class Scoring:
    """A bitmap that an actor scores."""

    bitmap: Bitmap
    """The bitmap."""
    limit: int | None
    """The number of examples to score it on; None takes all."""
    metrics: tuple[str, ...] = ()
    """The metrics on request that are measured too, such as ``kl``."""
    skip: int = 0
    """How many examples come before the first that is scored."""


@dataclass(frozen=True)
class Attacking:
    """A bitmap of which an actor measures the accuracy that an attack leaves."""

    bitmap: Bitmap
    """The bitmap."""
    limit: int | None
    """The number of examples that are scored, of which the first are attacked; None takes all."""
    skip: int = 0
    """How many examples come before the first."""


Item = Scoring | Measurement | Attacking
"""The work of an actor."""


class Scorer:
    """An object that holds a checkpoint's model and task, and scores bitmaps; actors and trials have one.

    Args:
        checkpoint: the folder, which every node must see, or what this process has open already.
        threads: how many threads torch has.
        device: where the model goes, by torch's name.
        robustness: the attack behind ``adversarial_accuracy``; None for its defaults.
    """

    def __init__(
        self, checkpoint: str | OpenCheckpoint, threads: int, device: str,
        robustness: AdversarialAccuracySettings | None = None,
    ) -> None:  # fmt: skip
        torch.set_num_threads(threads)
        opened = OpenCheckpoint.of(checkpoint)
        self.model: Any
        self.model, self.task = opened.runnable, opened.task
        self.model.to(device)
        if isinstance(self.model, SwitchableModel):
            share_large(self.model)
        self._requested: dict[tuple[str, ...], dict[str, Any]] = {}
        self._settings = robustness

    def score(self, item: Scoring) -> Evaluation:
        """Evaluate one bitmap; what metrics on request compare with is kept from one call to the next."""
        if item.metrics not in self._requested:
            self._requested[item.metrics] = on_request(self.task, item.metrics)
        self.model.set_bitmap(item.bitmap)
        began = time.time()
        found = evaluate_in_parts(self.task, self.model, item.limit, item.skip, **self._requested[item.metrics])
        return replace(found, span=(began, time.time()))

    def attack(self, item: Attacking) -> Evaluation:
        """Return the accuracy that an attack leaves at one bitmap; what attacks at the references find is kept."""
        began = time.time()
        found = self._robustness.measure(item.bitmap, item.limit, item.skip)
        return replace(found, span=(began, time.time()))

    def measure(self, measurement: Measurement) -> Taken:
        """Take a measurement of the model."""
        return measurement.take(self.model, self.task)

    @cached_property
    def _robustness(self) -> AdversarialAccuracy:
        return AdversarialAccuracy(self.model, self.task, self._settings)


class EvaluationActor:
    """A :class:`Scorer` in a process of its own."""

    def __init__(
        self, checkpoint: str | OpenCheckpoint, threads: int, device: str,
        robustness: AdversarialAccuracySettings | None = None,
    ) -> None:  # fmt: skip
        self._scorer = Scorer(checkpoint, threads, device, robustness)

    def do(self, item: Item) -> Evaluation | Taken:
        """Score or attack a bitmap, or take a measurement."""
        if isinstance(item, Measurement):
            return self._scorer.measure(item)
        return self._scorer.attack(item) if isinstance(item, Attacking) else self._scorer.score(item)


class EvaluationPool:
    """A :class:`search.Evaluator` on ``workers.count`` actors.

    Args:
        checkpoint: folder, which every node must see, or the checkpoint where this process has it open already: work in
            this process then loads nothing again.
        sites: the sites of its model.
        limit: how many validation examples count; None takes all.
        workers: how many actors there are, their threads and device.
        other: a task in place of the checkpoint's; an open checkpoint has its own.
        metrics: the metrics on request that are measured too, such as ``kl``.
        skip: how many examples come before the first that is scored.
        robustness: the attack behind ``adversarial_accuracy``, where that is among the metrics; None for its defaults.
    """

    def __init__(
        self,
        checkpoint: str | Path | OpenCheckpoint,
        sites: Sequence[Site],
        limit: int | None,
        workers: WorkersConfig,
        other: Mapping[str, Any] | None = None,
        metrics: Sequence[str] = (),
        skip: int = 0,
        robustness: AdversarialAccuracySettings | None = None,
    ) -> None:
        self._metrics, self._skip, self._settings = tuple(metrics), skip, robustness
        self._opened = OpenCheckpoint.of(checkpoint, other)
        self.limit, self.sites, self.at_once = limit, tuple(sites), workers.count
        made = pool_of(EvaluationActor, workers, self._opened, threads_of(workers), workers.device, robustness)
        self._pool: Pool[Item, Any] = made

    def evaluate(
        self,
        bitmaps: Sequence[Bitmap],
        limit: int | None = None,
        on_result: Callable[[int, Evaluation], None] | None = None,
    ) -> list[Evaluation]:
        """Score the bitmaps, in their order; ``on_result(index, evaluation)`` is called as each result arrives.

        The parts of a long split are shared out, so one bitmap keeps all actors busy; so is the attack on a bitmap.
        """
        examples = self.limit if limit is None else limit
        parts = parts_of(self._opened.task, examples, self._skip)
        found: list[dict[int, Evaluation]] = [{} for _ in bitmaps]
        whole: dict[int, Evaluation] = {}
        pieces = len(parts) + self._is_attacked

        def taken(index: int, evaluation: Evaluation) -> None:
            bitmap, part = divmod(index, pieces)
            found[bitmap][part] = evaluation
            if len(found[bitmap]) == pieces:
                whole[bitmap] = joined([found[bitmap][part] for part in range(len(parts))])
                if self._is_attacked:
                    whole[bitmap] = with_robustness(whole[bitmap], found[bitmap][len(parts)])
                if on_result is not None:
                    on_result(bitmap, whole[bitmap])

        items: list[Item] = []
        for bitmap in bitmaps:
            items += [Scoring(bitmap, part.limit, self._metrics, part.skip) for part in parts]
            items += [Attacking(bitmap, examples, self._skip)] * self._is_attacked
        self._pool.map(items, taken)
        return [whole[bitmap] for bitmap in range(len(bitmaps))]

    @property
    def _is_attacked(self) -> bool:
        return ADVERSARIAL_ACCURACY in self._metrics

    def with_metrics(self, names: Sequence[str]) -> EvaluationPool:
        """Return the same pool of the same actors, which measures metrics on request too.

        Raises:
            BadInputError: the task has no such metric.
        """
        on_request(self._opened.task, names)
        other = copy(self)
        other._metrics = tuple(names)
        return other

    def measure(self, measurement: Measurement) -> Taken:
        """Let one actor take a measurement."""
        (taken,) = self._pool.map([measurement])
        found: Taken = taken
        return found

    def why_unmeasured(self) -> str:
        """Return why no actor can take a measurement, in a few words; an empty text where they can."""
        return why_unscored(self._opened.task)

    def measure_all(
        self, measurements: Sequence[Measurement], on_result: Callable[[int, Taken], None] | None = None
    ) -> list[Taken]:
        """Take measurements on all actors, in their order; ``on_result(index, taken)`` is called as each arrives."""
        return self._pool.map(list(measurements), on_result)

    @property
    def primary_metric(self) -> str:
        """The metric of the task that is scored."""
        return self._opened.task.primary_metric

    def fingerprint(self) -> str:
        """Return a digest that is equal for equal weights and data."""
        own = attacked_fingerprint(self._opened.fingerprint, self._metrics, self._settings)
        return content_digest(own, {"skip": self._skip}) if self._skip else own

    def close(self) -> None:
        """Let the actors go."""
        self._pool.close()


def attacked_fingerprint(own: str, metrics: Sequence[str], robustness: AdversarialAccuracySettings | None) -> str:
    """Return the fingerprint ``own`` of a checkpoint, together with that of the attack where the metrics need one."""
    if ADVERSARIAL_ACCURACY not in metrics:
        return own
    return content_digest(own, (robustness or AdversarialAccuracySettings()).fingerprint())


def threads_of(workers: WorkersConfig) -> int:
    """Return the torch threads of each worker: as configured, or an equal share of this machine's cores."""
    return workers.threads or threads_per_worker(workers.count, physical_cores())


def pool_of(kind: type, workers: WorkersConfig, *arguments: Any, size: int | None = None) -> Pool[Any, Any]:
    """Make ``size`` actors of class ``kind`` (None: ``workers.count``), or one object of it where work is in process.

    Where training may begin with fewer workers than ``workers.count``, so may a pool.

    Raises:
        BadInputError: the actors need more than the cluster can ever give.
    """
    if workers.in_process:
        return LocalPool(partial(kind, *arguments))
    import ray

    request = admitted(workers, size)
    actor: Any = ray.remote(Made).options(**as_options(request))
    count = min(request.count, max(request.least, fitting(nodes_of(), request.each)))
    made = partial(actor.remote, partial(kind, *arguments))
    return ActorPool(made, count, replace(request, count=count), FailurePolicy(workers.max_failures))


def as_options(request: Request) -> dict[str, float]:
    """Write what one worker of ``request`` takes, as Ray's options of an actor or a task."""
    return {f"num_{name.lower()}s": amount for name, amount in request.each.items()}
