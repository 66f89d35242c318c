"""One evaluation cut into parts of examples, which several processes can share, and joined again.

Where the cuts are depends on the task alone, and whoever scores a long split scores it in parts, be it one process or
eight. So a score does not depend on how many share it, to the last bit: batches are made within a part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from qalof.evaluation.result import LOSS, Evaluation, exp_nats, mean_per_token
from qalof.tasks.base import Task, examples_of

LEAST = 128
"""The fewest examples of a part that is not the only one."""
BATCHES = 4
"""The fewest batches of a part, so most batches are full and of similar length."""


class Part(NamedTuple):
    """Some examples of a split.

    Attributes:
        skip: how many come before the first.
        limit: how many there are; None where all that follow are.
    """

    skip: int
    limit: int | None


def parts_of(task: Task, limit: int | None = None, skip: int = 0) -> list[Part]:
    """Return the parts in which ``limit`` examples after the first ``skip`` are scored (None: all of these).

    No part is without an answer where another has one, since a loss needs an answer.
    """
    if not hasattr(task, "windows") and not hasattr(task, "validation"):
        return [Part(skip, limit)]  # a task of someone's own, whose examples only it knows
    size = max(LEAST, BATCHES * _batch_size(task))
    examples = examples_of(task)
    end = len(examples) if limit is None else min(len(examples), skip + limit)
    cuts = [skip]
    for at in range(skip + size, end, size):
        if _answered(examples[cuts[-1] : at]) and _answered(examples[at:end]):
            cuts.append(at)
    if len(cuts) == 1:
        return [Part(skip, limit)]
    return [Part(start, stop - start) for start, stop in zip(cuts, [*cuts[1:], end], strict=True)]


def evaluate_in_parts(task: Task, model: Any, limit: int | None = None, skip: int = 0, **more: Any) -> Evaluation:
    """Return what ``task.evaluate`` of ``model`` does, part by part; ``more`` goes to each of its calls."""
    found = []
    for part in parts_of(task, limit, skip):
        given = more | ({"skip": part.skip} if part.skip else {})
        found.append(task.evaluate(model, limit=part.limit, **given))
    return joined(found)


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """Return the evaluation of all examples from those of consecutive parts; a single one is returned as it is.

    A mean is that of all examples, a ratio that of all sums, and a perplexity the exponential of the joined loss.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    weights = {name: [weight for part in parts for weight in part.weights[name]] for name in first.weights}
    means: dict[str, float] = {}
    scores: dict[str, list[float]] = {}
    for name in first.per_example:
        if name in weights:
            means[name], scores[name] = mean_per_token([v for part in parts for v in _sums(part, name)], weights[name])
        else:
            scores[name] = [score for part in parts for score in part.per_example[name]]
            means[name] = fmean(scores[name])
    exponents = {name: _exponent(parts, name) for name in first.exponents}
    metrics = {
        name: exp_nats(exponents[name] * means[LOSS]) if name in exponents else means[name] for name in first.metrics
    }
    counts = {name: sum(part.counts[name] for part in parts) for name in first.counts}
    return Evaluation(metrics, sum(part.examples for part in parts), scores, counts, weights, exponents)


def _sums(part: Evaluation, name: str) -> list[float]:
    """Undo :func:`qalof.evaluation.result.token_scores`."""
    scale = math.fsum(part.weights[name]) / len(part.weights[name])
    return [score * scale for score in part.per_example[name]]


def _exponent(parts: Sequence[Evaluation], name: str) -> float:
    """Return the tokens per word of all parts, whose words are whole numbers."""
    tokens = [sum(part.weights[LOSS]) for part in parts]
    words = [round(count / part.exponents[name]) for count, part in zip(tokens, parts, strict=True)]
    return sum(tokens) / sum(words)


def _batch_size(task: Any) -> int:
    """Return the size of a batch of an evaluation, which is the task's own business; 0 where it does not say."""
    return int(getattr(getattr(task, "settings", None), "eval_batch_size", 0))


def _answered(examples: Sequence[Any]) -> bool:
    return any(getattr(example, "answers", True) for example in examples)
