"""Tasks by name, as configs and checkpoints name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from qalof.errors import BadInputError, nearest_hint
from qalof.model.pretrained import load_tokenizer
from qalof.tasks.base import Task
from qalof.tasks.classification import ClassificationSettings, ClassificationTask
from qalof.tasks.language_modeling import LanguageModelingSettings, LanguageModelingTask
from qalof.tasks.squad_completion import CompletionSettings, CompletionTask
from qalof.tasks.squad_span import SpanSettings, SpanTask
from qalof.tasks.zero_shot import ZeroShotSettings, ZeroShotTask

TASKS: dict[str, tuple[Any, Any]] = {
    SpanTask.name: (SpanTask, SpanSettings),
    CompletionTask.name: (CompletionTask, CompletionSettings),
    LanguageModelingTask.name: (LanguageModelingTask, LanguageModelingSettings),
    ClassificationTask.name: (ClassificationTask, ClassificationSettings),
    ZeroShotTask.name: (ZeroShotTask, ZeroShotSettings),
}


def task(name: str, *, source: str = "tiny", **settings: Any) -> Task:
    """Make a task by name, such as ``task("squad-span", validation_split="validation[:512]")``.

    Args:
        name: one of :data:`TASKS`.
        source: the model whose tokenizer is used: ``tiny``, a local folder or a hub name.
        settings: fields of the task's settings class; ``data`` says which data.

    Raises:
        BadInputError: The task or a setting is unknown, or the model source does not load.
    """
    return make_task(name, settings, source)


def make_task(name: str, settings: Mapping[str, Any] | Any, source: str) -> Task:
    """Build a task with the tokenizer of the model ``source``.

    Args:
        name: one of :data:`TASKS`.
        settings: the task's settings class, or its fields.
        source: hub name, local folder, or ``tiny``.

    Raises:
        BadInputError: The task is unknown, or the model source does not load.
    """
    if name not in TASKS:
        raise BadInputError(f"no task {name!r}; {nearest_hint(name, TASKS)}")
    task_class, settings_class = TASKS[name]
    if not is_dataclass(settings):
        known = [field.name for field in fields(settings_class)]
        for key in set(settings) - set(known):
            raise BadInputError(f"task {name} has no setting {key!r}; {nearest_hint(key, known)}")
        settings = settings_class(**settings)
    made: Task = task_class(load_tokenizer(source), settings)
    return made


def describe_task(task: Task) -> dict[str, Any]:
    """Return name and settings, from which :func:`make_task` builds the task again."""
    return {"name": task.name, "settings": asdict(task.settings)}  # type: ignore[attr-defined]
