"""Evaluators measure bitmaps: the contract, and the evaluator that works in this process.

A search knows nothing of models: it gives bitmaps to an evaluator and gets evaluations back. The fingerprint identifies
model and data: where two fingerprints and limits are equal, the evaluations of a bitmap are equal too, so a record of
them may replace a measurement.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from qalof.bitmap import Bitmap
from qalof.evaluation.result import Evaluation
from qalof.metrics import ADVERSARIAL_ACCURACY, requested
from qalof.site import Site
from search.measurement import Measurement, Taken
from search.metric_limit import MetricLimit
from search.objective import Objective, parse_objectives

if TYPE_CHECKING:  # a search without a model in this process needs no torch
    from qalof.attacks.robustness.adversarial_accuracy import AdversarialAccuracySettings
    from qalof.model.switchable import SwitchableModel
    from qalof.tasks.base import Task

GUIDED, UNGUIDED = "guided", "tpe"
"""The strategy where none is named, and the one where the needs of that are not met."""


class Evaluator(Protocol):
    """Measures bitmaps of one model on one task.

    An evaluator may have more, and then serves more searches:

    * ``primary_metric``, the name of the metric that the model is judged by, for searches that name no objectives;
    * ``measure(measurement)``, which returns what :meth:`search.measurement.Measurement.take` does, for strategies that
      need scores or gradients, and ``why_unmeasured()``, which says in a few words why it cannot, if so; with both,
      ``guided`` is the strategy where none is named;
    * ``with_metrics(names)``, which returns an evaluator that measures these too, for metrics that take further passes,
      such as ``kl`` (:attr:`qalof.metrics.Metric.on_request`).
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
        metrics: metrics on request that are measured too, such as ``kl``.  What they compare with is run once and kept,
            in bounded memory (:mod:`qalof.evaluation.full_precision`).
        robustness: the attack behind ``adversarial_accuracy``, where that is among the metrics; None for its defaults.

    Raises:
        BadInputError: The task has no such metric on request, or the attack cannot be made on it.
    """

    at_once = 1

    def __init__(
        self, model: SwitchableModel, task: Task, limit: int | None = None, metrics: Sequence[str] = (),
        robustness: AdversarialAccuracySettings | None = None,
    ) -> None:  # fmt: skip
        from qalof.tasks.base import on_request

        self.model, self.task, self.limit = model, task, limit
        self._requested = on_request(task, metrics)
        self._settings, self._robustness = robustness, None
        if ADVERSARIAL_ACCURACY in metrics:
            from qalof.attacks.robustness.adversarial_accuracy import AdversarialAccuracy

            self._robustness = AdversarialAccuracy(model, task, robustness)

    def with_metrics(self, names: Sequence[str]) -> LocalEvaluator:
        """Return an evaluator that measures metrics on request too."""
        return LocalEvaluator(self.model, self.task, self.limit, names, self._settings)

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

    def why_unmeasured(self) -> str:
        """Return why :meth:`measure` cannot serve, in a few words; an empty text where it can."""
        from search.scores.data import why_unscored

        return why_unscored(self.task)

    def fingerprint(self) -> str:
        """Digest every tensor of the model, its settings and the task; a model may be trained on, so it is taken
        anew.
        """
        attacked = "" if self._robustness is None else f":{self._robustness.settings.fingerprint()}"
        return hashlib.sha256(f"{self._model_digest()}:{self.task.fingerprint()}{attacked}".encode()).hexdigest()

    def _evaluate(self, bitmap: Bitmap, limit: int | None) -> Evaluation:
        from qalof.tasks.parts import evaluate_in_parts

        self.model.set_bitmap(bitmap)
        found = evaluate_in_parts(self.task, self.model, limit, **self._requested)
        return found if self._robustness is None else self._robustness.added(found, bitmap, limit)

    def _model_digest(self) -> str:
        from qalof.model.fingerprint import tensors_digest

        # the base's own digest is not enough: two checkpoints on one base differ in adapters and head
        return tensors_digest(self.model, json.dumps(self.model.settings.to_json(), sort_keys=True).encode())


def strategy_of(evaluator: object, given: str | None) -> tuple[str, str]:
    """Return the strategy of a search, and why it is not ``guided`` although none is named; otherwise an empty text.

    ``guided`` needs a task with a differentiable loss and training examples, and an evaluator that can measure.
    """
    if given is not None:
        return given, ""
    ask = getattr(evaluator, "why_unmeasured", None)
    return strategy_for(f"{type(evaluator).__name__} has no method why_unmeasured" if ask is None else ask())


def strategy_for(why_unmeasured: str) -> tuple[str, str]:
    """Return what :func:`strategy_of` does, where no strategy is named and the evaluator gives this answer."""
    if not why_unmeasured:
        return GUIDED, ""
    return UNGUIDED, f"{UNGUIDED} is the strategy, since guided needs scores of the model: {why_unmeasured}"


def requests_of(objectives: Sequence[str | Objective], limits: Sequence[MetricLimit] = ()) -> tuple[str, ...]:
    """Return the objectives and limited metrics that an evaluation measures only where it is asked for them."""
    named = [objective.name for objective in parse_objectives(objectives)] + [limit.name for limit in limits]
    return requested(dict.fromkeys(named))


def measuring(
    evaluator: Evaluator, objectives: Sequence[str | Objective], limits: Sequence[MetricLimit] = ()
) -> Evaluator:
    """Return an evaluator that measures the objectives and limited metrics on request too; one that cannot be asked is
    taken as it is.

    Raises:
        BadInputError: The evaluator's task has no such metric.
    """
    names, ask = requests_of(objectives, limits), getattr(evaluator, "with_metrics", None)
    if not names or ask is None:
        return evaluator
    asked: Evaluator = ask(names)
    return asked
