"""The config of ``evaluate``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orchestrate.config.base import BitmapSpec
from orchestrate.config.sections import CheckpointConfig
from orchestrate.config.task import TaskConfig


class EvaluateConfig(CheckpointConfig):
    """The config of ``qalof evaluate``."""

    command: Literal["evaluate"] = "evaluate"
    """The command that reads this config."""
    task: TaskConfig | None = None
    """What the checkpoint is scored on; null takes the task that it was trained for."""
    on_request: list[str] = Field([])
    """The metrics that are measured only where they are asked for: ``kl``, the divergence from full precision, of tasks
    with a language head."""
    bitmaps: list[BitmapSpec] | None = None
    """The bitmaps that are scored; null scores every bit-width that has an adapter, and 32."""
