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
    ValidationConfig,
)
from orchestrate.config.task import TaskConfig
from qalof.model.settings import SwitchSettings
from qalof.training.loop import TrainSettings


class TrainingConfig(JobConfig):
    """What is trained, and how: base of the commands that train."""

    model: ModelConfig = ModelConfig()
    """The pretrained model that is made switchable."""
    task: TaskConfig
    """What the model learns and is scored on, and the data of it."""
    adapters: AdaptersConfig = AdaptersConfig()
    """The LoRA adapters, of which each bit-width has its own."""
    switch: SwitchSettings = SwitchSettings()
    """How the model is made switchable: sites, quantizers, and how branches are added."""
    objective: ObjectiveConfig
    """Which bitmaps run at a step, and what they learn."""
    training: TrainSettings = TrainSettings()
    """The steps, batches, the optimizer, and how a step is computed."""


class TrainConfig(TrainingConfig):
    """The config of ``qalof train``."""

    command: Literal["train"] = "train"
    """The command that reads this config."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What is scored after training."""
    validation: ValidationConfig = ValidationConfig()
    """What is scored in the middle of training, for validation curves."""
    keep_best: KeepBestConfig | None = None
    """How the best checkpoint is chosen, which is kept alongside the last; null keeps the last alone."""
