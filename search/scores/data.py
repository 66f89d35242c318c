"""What scores are computed of: batches with labels, from windows of text or from the training examples of a task."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from qalof.digests import content_digest
from qalof.errors import BadInputError
from qalof.evaluation.label_rows import LabeledBatch, Windows, labeled_windows
from qalof.tasks.base import Feature, Task

TOKENS = 2048
"""How many tokens are seen unless the number of examples is given: 8 windows of 256."""
WINDOW = 256
"""How long a window of running text is at most, so a few thousand tokens come from several places."""
BATCH_TOKENS = 512
"""How many tokens, padding included, a batch has at most, unless one example alone has more."""


@dataclass(frozen=True)
class ScoringData:
    """Batches with labels, and what identifies them."""

    batches: Sequence[LabeledBatch]
    """The batches."""
    digest: str
    """A digest of the examples, whatever the batches."""
    examples: int
    """The number of windows or examples."""

    @property
    def tokens(self) -> int:
        """The number of real tokens."""
        return sum(batch.tokens for batch in self.batches)


def scoring_data(
    source: Task | Windows,
    score: str,
    *,
    examples: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> ScoringData:
    """Return the data of a score.

    Args:
        source: windows of token ids, all of which are taken; or a task, of whose training examples some are drawn.
        score: the name of the score, for errors.
        examples: how many training examples are drawn; None draws as many as have 2,048 tokens.
        seed: draws the examples.
        device: where the tensors are put.

    Raises:
        BadInputError: The task has no likelihood, or there is no window or example.
    """
    if isinstance(source, torch.Tensor | Sequence):
        ids = source.tolist() if isinstance(source, torch.Tensor) else [list(map(int, window)) for window in source]
        size = max(1, BATCH_TOKENS // max(map(len, ids), default=1))
        return ScoringData(labeled_windows(ids, size, device), content_digest("windows", ids), len(ids))
    features = _features(source, score)
    chosen = _drawn(features, examples, seed)
    digest = content_digest(source.name, [{name: _plain(value) for name, value in each.items()} for each in chosen])
    batches = [_batch(source, part, device) for part in _batched(chosen)]
    return ScoringData(batches, digest, len(chosen))


def why_unscored(task: object) -> str:
    """Return why no score can be computed of a task, in a few words; an empty text where it can be."""
    read = getattr(task, "train_features", None)
    if read is None:
        return "its task has no training examples"
    try:
        return "" if len(read()) else "its task has no training examples"
    except BadInputError as error:
        return str(error)


def _features(task: Task, score: str) -> Sequence[Feature]:
    try:
        features = task.train_features()
    except BadInputError as error:
        raise BadInputError(f"score {score} needs a task with a likelihood and training examples: {error}") from error
    if not len(features):
        raise BadInputError(f"score {score} needs at least one training example: task {task.name} has none")
    return features


def _drawn(features: Sequence[Feature], examples: int | None, seed: int) -> list[Feature]:
    """Return the first of the examples in an order drawn from ``seed``, at least one."""
    if examples is not None and examples < 1:
        raise BadInputError(f"scores need at least one example: got {examples}; null takes {TOKENS} tokens")
    order = random.Random(seed).sample(range(len(features)), len(features))
    chosen: list[Feature] = []
    tokens = 0
    for index in order:
        chosen.append(_cut(features[index]))
        tokens += len(chosen[-1]["input_ids"])
        if len(chosen) == examples or (examples is None and tokens >= TOKENS):
            break
    return chosen


def _cut(feature: Feature) -> Feature:
    """Return the beginning of a block of running text; any other example is returned whole."""
    running = set(feature) == {"input_ids", "first"} and feature["first"] == 1
    return {**feature, "input_ids": list(feature["input_ids"])[:WINDOW]} if running else feature


def _batched(features: Sequence[Feature]) -> list[list[Feature]]:
    """Return the examples in batches of at most 512 tokens with padding, longest first, so little is padded."""
    batches: list[list[Feature]] = []
    for feature in sorted(features, key=lambda each: -len(each["input_ids"])):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0]["input_ids"]) <= BATCH_TOKENS:
            batches[-1].append(feature)
        else:
            batches.append([feature])
    return batches


def _batch(task: Task, features: Sequence[Feature], device: torch.device | str) -> LabeledBatch:
    batch = {name: tensor.to(device) for name, tensor in task.collate(features).items()}
    rows: Callable[[Any], tuple[torch.Tensor, torch.Tensor]] = partial(task.label_rows, batch=batch)
    return LabeledBatch(task.model_inputs(batch), rows, task.labeled(batch))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
