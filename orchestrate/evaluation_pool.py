"""Evaluation on Ray actors that each hold the model: the search's ``Evaluator``, in parallel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch

from orchestrate.assemble import load_checkpoint, task_of
from orchestrate.cluster import worker_threads
from orchestrate.config import WorkersConfig
from orchestrate.pool import ActorPool
from qalof.bitmap import Bitmap
from qalof.evaluation.result import Evaluation
from qalof.files import MANIFEST, digest
from qalof.model.sites import Site
from qalof.tasks.feature_cache import content_digest


@ray.remote
class EvaluationActor:
    """Holds a checkpoint's model and task, and scores bitmaps."""

    def __init__(self, checkpoint: str, limit: int | None, threads: int, gpu: bool) -> None:
        torch.set_num_threads(threads)
        self._model, self._task = load_checkpoint(checkpoint)
        self._model.to("cuda" if gpu else "cpu")
        self._limit = limit

    def do(self, bitmap: Bitmap) -> Evaluation:
        """Score the model at ``bitmap``."""
        self._model.set_bitmap(bitmap)
        return self._task.evaluate(self._model, limit=self._limit)


class EvaluationPool:
    """A :class:`search.evaluator.Evaluator` on ``workers.count`` actors.

    Args:
        checkpoint: folder; every node must see it.
        sites: of its model.
        limit: validation examples; None for all.
        workers: how many actors, their threads and device.
    """

    def __init__(self, checkpoint: Path, sites: Sequence[Site], limit: int | None, workers: WorkersConfig) -> None:
        self.checkpoint, self.limit, self.sites = checkpoint, limit, tuple(sites)
        threads = workers.threads or worker_threads(workers.count)
        options: dict[str, Any] = {"num_gpus": 1} if workers.gpu else {"num_cpus": 1}
        make: Callable[[], Any] = partial(
            EvaluationActor.options(**options).remote, str(checkpoint), limit, threads, workers.gpu
        )
        self._pool: ActorPool[Bitmap, Evaluation] = ActorPool(make, workers.count)

    def evaluate(
        self, bitmaps: Sequence[Bitmap], on_result: Callable[[int, Evaluation], None] | None = None
    ) -> list[Evaluation]:
        """Score each bitmap, in their order; ``on_result(index, evaluation)`` is called as each arrives."""
        return self._pool.map(bitmaps, on_result)

    def fingerprint(self) -> str:
        """Equal for equal weights, data and limit."""
        return checkpoint_fingerprint(self.checkpoint, self.limit)

    def close(self) -> None:
        """Let the actors go."""
        self._pool.close()


def checkpoint_fingerprint(checkpoint: Path, limit: int | None) -> str:
    """Digest of what an evaluation depends on: weights, task, data and the number of examples."""
    return content_digest(digest(checkpoint / MANIFEST), task_of(checkpoint).fingerprint(), limit)
