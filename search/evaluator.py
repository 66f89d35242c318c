"""Evaluators measure bitmaps: the contract, and the evaluator that works in this process.

A search knows nothing of models: it gives bitmaps to an evaluator and gets evaluations back. The fingerprint identifies
model and data: where two fingerprints and limits are equal, the evaluations of a bitmap are equal too, so a record of
them may replace a measurement.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Protocol

from qalof.bitmap import Bitmap
from qalof.evaluation.result import Evaluation
from qalof.model.fingerprint import tensors_digest
from qalof.model.switchable import SwitchableModel
from qalof.site import Site
from qalof.tasks.base import Task
from search.measurement import Measurement, Taken


class Evaluator(Protocol):
    """Measures bitmaps of one model on one task.

    An evaluator that also has a ``primary_metric``, the name of the metric that the model is judged by, can be used by
    searches that name no objectives.  One that also has ``measure(measurement)``, which returns what
    :meth:`search.measurement.Measurement.take` does, serves the strategies that need scores or gradients.
    """

    @property
    def sites(self) -> Sequence[Site]:
        """The model's quantizable layers, in order."""
        ...

    @property
    def limit(self) -> int | None:
        """How many examples an evaluation takes unless told otherwise; None for all."""
        ...

    @property
    def at_once(self) -> int:
        """How many bitmaps it works on together; a search hands over no more, so that a kill loses no more."""
        ...

    def evaluate(self, bitmaps: Sequence[Bitmap], limit: int | None = None) -> list[Evaluation]:
        """Return one evaluation per bitmap, in order, on the first ``limit`` examples if given."""
        ...

    def fingerprint(self) -> str:
        """Return a digest of model and data; see the docstring of the module."""
        ...


class LocalEvaluator:
    """Evaluates in this process, one bitmap after another, leaves the model in eval mode, at the bitmap it had.

    Args:
        model: its weights must not change while this evaluator is in use.
        task: what is measured.
        limit: how many examples an evaluation takes; None for all.
    """

    at_once = 1

    def __init__(self, model: SwitchableModel, task: Task, limit: int | None = None) -> None:
        self.model, self.task, self.limit = model, task, limit

    @property
    def sites(self) -> tuple[Site, ...]:
        """The model's quantizable layers, in order."""
        return self.model.sites

    @property
    def primary_metric(self) -> str:
        """The task's own metric."""
        return self.task.primary_metric

    def evaluate(self, bitmaps: Sequence[Bitmap], limit: int | None = None) -> list[Evaluation]:
        """Return one evaluation per bitmap, in order."""
        examples = self.limit if limit is None else limit
        self.model.eval()
        with self.model.at():
            return [self._evaluate(bitmap, examples) for bitmap in bitmaps]

    def measure(self, measurement: Measurement) -> Taken:
        """Take a measurement of the model."""
        with self.model.at():
            return measurement.take(self.model, self.task)

    def fingerprint(self) -> str:
        """Digest of every tensor of the model, its settings and the task; taken anew, for a model may be trained on."""
        return hashlib.sha256(f"{self._model_digest()}:{self.task.fingerprint()}".encode()).hexdigest()

    def _evaluate(self, bitmap: Bitmap, limit: int | None) -> Evaluation:
        self.model.set_bitmap(bitmap)
        return self.task.evaluate(self.model, limit=limit)

    def _model_digest(self) -> str:
        # the base's own digest is not enough: two checkpoints on one base differ in adapters and head
        return tensors_digest(self.model, json.dumps(self.model.settings.to_json(), sort_keys=True).encode())
