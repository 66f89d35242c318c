"""The ``task`` section: a task by its name, with the task's own settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrate.config.base import Section
from qalof.tasks.classification import ClassificationSettings
from qalof.tasks.language_modeling import LanguageModelingSettings
from qalof.tasks.squad_completion import CompletionSettings
from qalof.tasks.squad_span import SpanSettings
from qalof.tasks.zero_shot import ZeroShotSettings


class SpanTaskConfig(Section):
    """Extractive question answering."""

    name: Literal["squad-span"]
    settings: SpanSettings = SpanSettings()


class CompletionTaskConfig(Section):
    """Question answering as completion."""

    name: Literal["squad-completion"]
    settings: CompletionSettings = CompletionSettings()


class ClassificationTaskConfig(Section):
    """Text classification."""

    name: Literal["classification"]
    settings: ClassificationSettings = ClassificationSettings()


class LanguageModelingTaskConfig(Section):
    """Next-token loss on plain text."""

    name: Literal["language-modeling"]
    settings: LanguageModelingSettings = LanguageModelingSettings()


class ZeroShotTaskConfig(Section):
    """Multiple-choice benchmarks, for evaluation alone."""

    name: Literal["zero-shot"]
    settings: ZeroShotSettings = ZeroShotSettings()


TaskConfig = Annotated[
    SpanTaskConfig | CompletionTaskConfig | LanguageModelingTaskConfig | ClassificationTaskConfig | ZeroShotTaskConfig,
    Field(discriminator="name"),
]
