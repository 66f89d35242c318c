"""What a checkpoint's task gives to attack."""

from __future__ import annotations

from qalof.attacks.attack import AttackExample
from qalof.attacks.goal import HELD
from qalof.errors import BadInputError
from qalof.tasks.base import Task
from qalof.tasks.classification import ClassificationTask
from qalof.tasks.language_modeling import LanguageModelingTask

LEAST_WORDS = 20


def labelled_texts(task: Task) -> list[AttackExample]:
    """A classifier's validation texts, with their index as id.

    Raises:
        BadInputError: another task.
    """
    if not isinstance(task, ClassificationTask):
        raise BadInputError(f"this attack needs a classifier's checkpoint: got one of task {task.name}")
    return [AttackExample(index, each.text, each.label) for index, each in enumerate(task.validation)]


def texts_or_paragraphs(task: Task) -> list[AttackExample]:
    """As :func:`labelled_texts`; of language modelling, the validation lines of at least 20 words.

    Raises:
        BadInputError: a task of neither kind, or a text without such lines.
    """
    if not isinstance(task, LanguageModelingTask):
        return labelled_texts(task)
    lines = [line.strip() for line in task.validation.splitlines()]
    kept = [line for line in lines if len(line.split()) >= LEAST_WORDS]
    if not kept:
        raise BadInputError(f"to attack a language model its text must have lines of {LEAST_WORDS} words: it has none")
    return [AttackExample(index, line, HELD) for index, line in enumerate(kept)]
