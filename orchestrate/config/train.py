"""The configs of the commands that train."""

from __future__ import annotations

from typing import Literal

from orchestrate.config.objective import ObjectiveConfig
from orchestrate.config.sections import (
    AdaptersConfig,
    EvaluationConfig,
    JobConfig,
    KeepBestConfig,
    ModelConfig,
)
from orchestrate.config.task import TaskConfig
from qalof.model.settings import SwitchSettings
from qalof.training.loop import TrainSettings


class TrainingConfig(JobConfig):
    """What is trained, and how: base of the commands that train."""

    model: ModelConfig = ModelConfig()
    task: TaskConfig
    adapters: AdaptersConfig = AdaptersConfig()
    switch: SwitchSettings = SwitchSettings()
    objective: ObjectiveConfig
    training: TrainSettings = TrainSettings()


class TrainConfig(TrainingConfig):
    """``qalof train``."""

    command: Literal["train"] = "train"
    evaluation: EvaluationConfig = EvaluationConfig()
    keep_best: KeepBestConfig | None = None
