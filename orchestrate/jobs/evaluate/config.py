"""The config of ``evaluate``."""

from __future__ import annotations

from typing import Literal

from orchestrate.config.base import BitmapSpec
from orchestrate.config.sections import CheckpointConfig
from orchestrate.config.task import TaskConfig


class EvaluateConfig(CheckpointConfig):
    """``qalof evaluate``; ``bitmaps`` None takes every width that has an adapter, and 32.

    ``task``: what to score it on; None for the task that it was trained for.
    """

    command: Literal["evaluate"] = "evaluate"
    task: TaskConfig | None = None
    bitmaps: list[BitmapSpec] | None = None
