"""The goal that fits a victim."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from qalof.attacks.answer_goal import AnswerGoal
from qalof.attacks.continuation_goal import ContinuationGoal
from qalof.attacks.goal import Goal, LabelGoal
from qalof.attacks.victim import Precisions, classifier
from qalof.errors import BadInputError
from qalof.model.pretrained import HeadKind
from qalof.tasks.squad_completion import CompletionTask
from qalof.tasks.squad_span import SpanTask


def label_or_continuation(
    model: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, rise: float, precisions: Precisions | None = None,
    task: Any = None,
) -> Goal:  # fmt: skip
    """Return the goal that a model's head allows, or its ``task`` where that is question answering.

    Raises:
        BadInputError: The model is neither a classifier nor a causal LM, and the task does not answer questions.
    """
    if isinstance(task, SpanTask | CompletionTask):
        return AnswerGoal(task, model, max_length, precisions)
    head = model.base.head
    if head is HeadKind.CLASSIFIER:
        return LabelGoal(classifier(model, tokenizer, max_length, precisions))
    if head is HeadKind.CAUSAL_LM:
        return ContinuationGoal(model, tokenizer, max_length, rise, precisions)
    raise BadInputError(f"an attack on words needs a classifier, a causal LM or question answering: got a {head} head")
