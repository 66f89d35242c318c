"""The contract that a task fulfills.

A task defines its data, its batches, its loss and its score; it owns no model. Losses are *sums* over units (label
rows), and the trainer divides by the units of the whole global batch. So N workers give the loss of one worker, however
the batch is split, and every objective (cross entropy, distillation) is weighted alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch

from qalof.batching import Progress
from qalof.errors import BadInputError
from qalof.evaluation.full_precision import FullPrecision
from qalof.evaluation.result import Evaluation
from qalof.metrics import requested
from qalof.model.pretrained import HeadKind
from qalof.precision import at_least_float32

Batch = dict[str, torch.Tensor]
"""The tensors by name; the first dimension is the batch."""

Example = TypeVar("Example")

Feature = Mapping[str, Any]
"""One tokenized training example: plain lists and numbers."""


class TrainingData(NamedTuple):
    """What a task trains on.

    Attributes:
        features: the examples, tokenized.
        counts: how many were left out or cut, by reason; zeros are included.
    """

    features: Sequence[Feature]
    counts: dict[str, int]


class Task(Protocol):
    """One kind of work for a language model."""

    name: str
    head: HeadKind
    labels: int | None
    """The number of classes of a classifier head; otherwise None."""
    primary_metric: str
    """The metric that the task is judged by; :mod:`qalof.metrics` says in which direction it is better."""

    metrics: tuple[str, ...]
    """The names of the metrics that :meth:`evaluate` returns; those on request (:mod:`qalof.metrics`) where it is given
    what they need (:func:`on_request`)."""

    def train_features(self) -> Sequence[Feature]:
        """Return all training examples, tokenized, in a fixed order."""
        ...

    def train_counts(self) -> dict[str, int]:
        """Return how many examples :meth:`train_features` left out or cut, by name; zeros are included."""
        ...

    def collate(self, features: Sequence[Feature]) -> Batch:
        """Pad features to one batch of the model's inputs and the labels."""
        ...

    def units(self, feature: Feature) -> float:
        """Return how many label rows :meth:`loss_sum` sums for this feature."""
        ...

    def model_inputs(self, batch: Batch) -> Batch:
        """Return the part of a batch that the model's forward takes."""
        ...

    def labeled(self, batch: Batch) -> torch.Tensor | None:
        """Return which tokens have a label, (B, T) boolean; the head of a causal model runs only there.

        None where the labels are not those of tokens, or the head must run everywhere.
        """
        ...

    def label_rows(self, outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (units, classes), with impossible classes at -inf, and their labels (units,).

        The logits of a causal model are (B, T, V), or (units, V) where the head ran only at :meth:`labeled` tokens.
        """
        ...

    def evaluate(
        self, model: Any, *, limit: int | None = None, skip: int = 0, progress: Progress | None = None
    ) -> Evaluation:
        """Score ``model`` (called as a transformers model) on the validation split, or on ``limit`` examples of it
        after the first ``skip``.

        Raises:
            BadInputError: ``skip`` leaves no example.
        """
        ...

    def fingerprint(self) -> str:
        """Return a digest of data and settings: equal fingerprints mean equal evaluations."""
        ...


def chosen(examples: Sequence[Example], limit: int | None, skip: int) -> Sequence[Example]:
    """Return ``limit`` examples after the first ``skip``; None returns all of these.

    Raises:
        BadInputError: ``skip`` leaves no example.
    """
    if skip >= len(examples) > 0:
        raise BadInputError(
            f"skip must leave an example: got {skip} of {len(examples)}; lower it, or take another split"
        )
    return examples[skip:][:limit]


def examples_of(task: Any) -> Sequence[Any]:
    """Return the examples of a task's validation split; those of running text are windows."""
    found: Sequence[Any] = task.windows() if hasattr(task, "windows") else task.validation
    return found


def example_count(task: Any) -> int:
    """Return how many examples the validation split of a task has."""
    return len(examples_of(task))


def on_request(task: Task, names: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of :meth:`Task.evaluate` by which it measures metrics on request, made anew.

    ``kl`` takes ``full_precision``, which keeps what a model predicts at full precision from one evaluation to the
    next; so it serves one model whose weights do not change.

    Raises:
        BadInputError: The task has no such metric, or one that it measures anyway.
    """
    for name in names:
        offered = requested(task.metrics)
        if name not in offered:
            has = ", ".join(offered) or "none"
            raise BadInputError(f"a metric on request must be one of the task's: got {name!r}, {task.name} has {has}")
    return {"full_precision": FullPrecision()} if "kl" in names else {}


def loss_sum(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy in nats, summed over rows, in fp32 at least.

    Args:
        logits: (units, classes).
        labels: (units,).
    """
    return torch.nn.functional.cross_entropy(at_least_float32(logits), labels, reduction="sum")
