"""The config of ``evaluate``."""

from __future__ import annotations

from typing import Literal

from orchestrate.config.base import BitmapSpec
from orchestrate.config.sections import CheckpointConfig
from orchestrate.config.task import TaskConfig


class EvaluateConfig(CheckpointConfig):
    """The config of ``qalof evaluate``."""

    command: Literal["evaluate"] = "evaluate"
    """The command that reads this config."""
    task: TaskConfig | None = None
    """What the checkpoint is scored on; null takes the task that it was trained for."""
    bitmaps: list[BitmapSpec] | None = None
    """The bitmaps that are scored; null scores every bit-width that has an adapter, and 32."""
