"""The ``task`` section: a task's name, and the settings that this task has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrate.config.base import BaseConfig
from qalof.tasks.classification import ClassificationSettings
from qalof.tasks.language_modeling import LanguageModelingSettings
from qalof.tasks.squad_completion import CompletionSettings
from qalof.tasks.squad_span import SpanSettings
from qalof.tasks.zero_shot import ZeroShotSettings


class SpanTaskConfig(BaseConfig):
    """Question answering, in which the answer is a span of the context."""

    name: Literal["squad-span"]
    """The name by which a config picks this task."""
    settings: SpanSettings = SpanSettings()
    """The settings of the task, its data included."""


class CompletionTaskConfig(BaseConfig):
    """Question answering, in which the answer completes a prompt."""

    name: Literal["squad-completion"]
    """The name by which a config picks this task."""
    settings: CompletionSettings = CompletionSettings()
    """The settings of the task, its data included."""


class ClassificationTaskConfig(BaseConfig):
    """Text classification."""

    name: Literal["classification"]
    """The name by which a config picks this task."""
    settings: ClassificationSettings = ClassificationSettings()
    """The settings of the task, its data included."""


class LanguageModelingTaskConfig(BaseConfig):
    """Language modeling: the loss of the next token on plain text."""

    name: Literal["language-modeling"]
    """The name by which a config picks this task."""
    settings: LanguageModelingSettings = LanguageModelingSettings()
    """The settings of the task, its data included."""


class ZeroShotTaskConfig(BaseConfig):
    """Multiple-choice benchmarks, for evaluation alone."""

    name: Literal["zero-shot"]
    """The name by which a config picks this task."""
    settings: ZeroShotSettings = ZeroShotSettings()
    """The settings of the task, its data included."""


TaskConfig = Annotated[
    SpanTaskConfig | CompletionTaskConfig | LanguageModelingTaskConfig | ClassificationTaskConfig | ZeroShotTaskConfig,
    Field(discriminator="name"),
]
