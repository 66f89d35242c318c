"""The ``task`` section: a task by its name, with the task's own settings."""

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
    """Extractive question answering."""

    name: Literal["squad-span"]
    settings: SpanSettings = SpanSettings()


class CompletionTaskConfig(BaseConfig):
    """Question answering as completion."""

    name: Literal["squad-completion"]
    settings: CompletionSettings = CompletionSettings()


class ClassificationTaskConfig(BaseConfig):
    """Text classification."""

    name: Literal["classification"]
    settings: ClassificationSettings = ClassificationSettings()


class LanguageModelingTaskConfig(BaseConfig):
    """Next-token loss on plain text."""

    name: Literal["language-modeling"]
    settings: LanguageModelingSettings = LanguageModelingSettings()


class ZeroShotTaskConfig(BaseConfig):
    """Multiple-choice benchmarks, for evaluation alone."""

    name: Literal["zero-shot"]
    settings: ZeroShotSettings = ZeroShotSettings()


TaskConfig = Annotated[
    SpanTaskConfig | CompletionTaskConfig | LanguageModelingTaskConfig | ClassificationTaskConfig | ZeroShotTaskConfig,
    Field(discriminator="name"),
]
