"""Tasks by name, as configs and checkpoints write them down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from qalof.errors import BadInputError, nearest_hint
from qalof.model.pretrained import load_tokenizer
from qalof.tasks.base import Task
from qalof.tasks.classification import ClassificationSettings, ClassificationTask
from qalof.tasks.squad_completion import CompletionSettings, CompletionTask
from qalof.tasks.squad_span import SpanSettings, SpanTask

TASKS: dict[str, tuple[Any, Any]] = {
    SpanTask.name: (SpanTask, SpanSettings),
    CompletionTask.name: (CompletionTask, CompletionSettings),
    ClassificationTask.name: (ClassificationTask, ClassificationSettings),
}


def make_task(name: str, settings: Mapping[str, Any] | Any, source: str) -> Task:
    """Build a task with the tokenizer of the model ``source``.

    Args:
        name: one of :data:`TASKS`.
        settings: the task's settings class, or its fields.
        source: hub name, local folder, or ``tiny``.

    Raises:
        BadInputError: an unknown task, or a model source that does not load.
    """
    if name not in TASKS:
        raise BadInputError(f"no task {name!r}; {nearest_hint(name, TASKS)}")
    task_class, settings_class = TASKS[name]
    fields = settings if is_dataclass(settings) else settings_class(**settings)
    task: Task = task_class(load_tokenizer(source), fields)
    return task


def describe_task(task: Task) -> dict[str, Any]:
    """Name and settings: what :func:`make_task` needs to build it again."""
    return {"name": task.name, "settings": asdict(task.settings)}  # type: ignore[attr-defined]
