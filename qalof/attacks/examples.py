"""The examples that the task of a checkpoint gives to attack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qalof.attacks.attack import AttackSettings
from qalof.attacks.goal import FAILED
from qalof.attacks.result import AttackExample
from qalof.errors import BadInputError
from qalof.model.pretrained import HeadKind
from qalof.tasks.base import Task
from qalof.tasks.classification import ClassificationTask
from qalof.tasks.language_modeling import LanguageModelingTask
from qalof.tasks.squad_completion import CompletionTask
from qalof.tasks.squad_span import SpanTask
from qalof.tiny.reviews import true_label

LEAST_WORDS = 20


def labeled_texts(task: Task) -> list[AttackExample]:
    """Return a classifier's validation texts, with their index as id.

    Raises:
        BadInputError: The task is another one.
    """
    if not isinstance(task, ClassificationTask):
        raise BadInputError(f"this attack needs a classifier's checkpoint: got one of task {task.name}")
    return [AttackExample(index, each.text, each.label) for index, each in enumerate(task.validation)]


def texts_or_paragraphs(task: Task) -> list[AttackExample]:
    """Return :func:`labeled_texts`, for language modeling the validation lines of at least 20 words, or for question
    answering the context of each question that has an answer.

    Raises:
        BadInputError: The task is of no such kind, its text has no such lines, or no question has an answer.
    """
    if isinstance(task, SpanTask | CompletionTask):
        asked = [(index, each) for index, each in enumerate(task.validation) if any(map(str.strip, each.texts))]
        if not asked:
            raise BadInputError("to attack question answering a question must have an answer: none of them has one")
        return [AttackExample(index, each.context, FAILED) for index, each in asked]
    if not isinstance(task, LanguageModelingTask):
        return labeled_texts(task)
    lines = [line.strip() for line in task.validation.splitlines()]
    kept = [line for line in lines if len(line.split()) >= LEAST_WORDS]
    if not kept:
        raise BadInputError(f"to attack a language model its text must have lines of {LEAST_WORDS} words: it has none")
    return [AttackExample(index, line, FAILED) for index, line in enumerate(kept)]


def oracle_of(task: Task) -> Callable[[str], int | None] | None:
    """Return what knows the true label of any text of a task: the generator of the shipped reviews; None elsewhere."""
    if not isinstance(task, ClassificationTask):
        return None
    source = task.settings.validation_data or task.settings.data
    return true_label if source == "tiny" else None


def for_task(settings: AttackSettings, task: Task) -> AttackSettings:
    """Return settings that know the task of the victim, where their method reads a victim by its task."""
    bind = getattr(settings, "of_task", None)
    return settings if bind is None else bind(task)


def text_misfit(example: AttackExample, model: Any) -> str | None:
    """Say why a text cannot be attacked: it has no words, or a label that the classifier ``model`` does not have."""
    if not example.text.split():
        return "a text must have at least 1 word"
    labels = model.base.labels if model.base.head is HeadKind.CLASSIFIER else None
    if labels is not None and not 0 <= example.label < labels:
        return f"a label must be a whole number from 0 to {labels - 1}"
    return None


def fitting(
    settings: Any, examples: Sequence[AttackExample], model: Any, tokenizer: Any
) -> tuple[list[AttackExample], dict[int, str]]:
    """Return the examples that an attack can be run on, and the reason against each other one, by its id.

    Args:
        settings: the settings of the method, see :class:`~qalof.attacks.attack.AttackSettings`.
        examples: the examples of the checkpoint's task.
        model: the victim.
        tokenizer: its tokenizer.

    Raises:
        BadInputError: None of them can be attacked.
    """
    misfits = {each.id: _broken(each) or settings.misfit(each, model, tokenizer) for each in examples}
    reasons = {index: reason for index, reason in misfits.items() if reason is not None}
    kept = [example for example in examples if example.id not in reasons]
    if not kept:
        first = next(iter(reasons.values()), "there is none")
        raise BadInputError(f"an attack needs at least one text or target that it can be run on: {first}")
    return kept, reasons


def _broken(example: AttackExample) -> str | None:
    try:
        f"{example.text}{example.target}".encode()
    except UnicodeEncodeError:
        return "a text must hold whole characters: it has half of one"
    return None
