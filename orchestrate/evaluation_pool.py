"""Evaluation on Ray actors that each hold the model: a search's ``Evaluator``, in parallel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch

from orchestrate.cluster import cpus_per_worker, physical_cores, threads_per_worker
from orchestrate.config import WorkersConfig
from orchestrate.pool import ActorPool
from qalof.bitmap import Bitmap
from qalof.checkpoints import load_any, task_of
from qalof.evaluation.result import Evaluation
from qalof.files import MANIFEST, digest
from qalof.model.shared_base import share_large
from qalof.model.sites import Site
from qalof.model.switchable import SwitchableModel
from qalof.tasks.feature_cache import content_digest


class Scorer:
    """Holds a checkpoint's model and task, and scores bitmaps: what an actor or a trial does.

    Args:
        checkpoint: folder; every node must see it.
        threads: of torch.
        gpu: whether the model goes to the GPU.
    """

    def __init__(self, checkpoint: str, threads: int, gpu: bool) -> None:
        torch.set_num_threads(threads)
        self.model, self.task = load_any(checkpoint), task_of(checkpoint)
        self.model.to("cuda" if gpu else "cpu")
        if isinstance(self.model, SwitchableModel):
            share_large(self.model)

    def score(self, bitmap: Bitmap, limit: int | None) -> Evaluation:
        """Evaluate at ``bitmap`` on the first ``limit`` examples; None for all."""
        self.model.set_bitmap(bitmap)
        return self.task.evaluate(self.model, limit=limit)


class EvaluationActor:
    """A :class:`Scorer` in a process of its own."""

    def __init__(self, checkpoint: str, threads: int, gpu: bool) -> None:
        self._scorer = Scorer(checkpoint, threads, gpu)

    def do(self, item: tuple[Bitmap, int | None]) -> Evaluation:
        """Score (bitmap, limit)."""
        return self._scorer.score(*item)


class EvaluationPool:
    """A :class:`search.Evaluator` on ``workers.count`` actors.

    Args:
        checkpoint: folder; every node must see it.
        sites: of its model.
        limit: validation examples; None for all.
        workers: how many actors, their threads and device.
    """

    def __init__(self, checkpoint: Path, sites: Sequence[Site], limit: int | None, workers: WorkersConfig) -> None:
        self.checkpoint, self.limit, self.sites = checkpoint, limit, tuple(sites)
        self.at_once = workers.count
        actor = ray.remote(EvaluationActor).options(**resources(workers))
        make: Callable[[], Any] = partial(actor.remote, str(checkpoint), threads_of(workers), workers.gpu)
        self._pool: ActorPool[tuple[Bitmap, int | None], Evaluation] = ActorPool(make, workers.count)

    def evaluate(
        self,
        bitmaps: Sequence[Bitmap],
        limit: int | None = None,
        on_result: Callable[[int, Evaluation], None] | None = None,
    ) -> list[Evaluation]:
        """Score each bitmap, in their order; ``on_result(index, evaluation)`` is called as each arrives."""
        examples = self.limit if limit is None else limit
        return self._pool.map([(bitmap, examples) for bitmap in bitmaps], on_result)

    def fingerprint(self) -> str:
        """Equal for equal weights and data."""
        return checkpoint_fingerprint(self.checkpoint)

    def close(self) -> None:
        """Let the actors go."""
        self._pool.close()


def checkpoint_fingerprint(checkpoint: Path) -> str:
    """Digest of what an evaluation depends on besides bitmap and limit: weights, task and data."""
    return content_digest(digest(checkpoint / MANIFEST), task_of(checkpoint).fingerprint())


def threads_of(workers: WorkersConfig) -> int:
    """Torch threads of each worker: as configured, or an equal share of this machine's cores."""
    return workers.threads or threads_per_worker(workers.count, physical_cores())


def resources(workers: WorkersConfig) -> dict[str, float]:
    """Ray's tickets for each worker: a GPU, or its share of the CPUs that the cluster has."""
    if workers.gpu:
        return {"num_gpus": 1}
    return {"num_cpus": cpus_per_worker(workers.count, ray.cluster_resources().get("CPU", 1.0))}
