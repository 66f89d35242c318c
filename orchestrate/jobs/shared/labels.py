"""What a command says of the labels of its data."""

from __future__ import annotations

from rich.markup import escape

from orchestrate.runs.progress import say
from qalof.tasks.base import Task
from qalof.tasks.classification import ClassificationTask


def tell_labels(task: Task) -> None:
    """Say how the labels of a classifier's data map to its classes; other tasks have none.

    Raises:
        BadInputError: the data cannot be read.
    """
    if isinstance(task, ClassificationTask):
        say(escape(task.label_mapping()))
