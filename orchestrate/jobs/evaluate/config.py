"""The config of ``evaluate``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrate.config.base import BaseConfig, BitmapSpec
from orchestrate.config.sections import CheckpointConfig
from orchestrate.config.task import TaskConfig
from qalof.laws import Count, Law, Seed, Share


class DrawnPrecisionConfig(BaseConfig):
    """Random precision inference, under which a checkpoint is scored besides its fixed bitmaps."""

    bitmaps: list[BitmapSpec] = Field(min_length=1)
    """The bitmaps to draw from, uniformly."""
    granularity: Literal["request", "batch", "layer", "token"] = "request"
    """What shares a draw: a ``request``, a ``batch`` of ``batch_size`` requests in a row, or nothing, since each
    ``layer`` or each ``token`` of a request draws for itself."""
    batch_size: Annotated[int, Law(ge=1, off="null is 16")] | None = None
    """How many requests in a row share a draw under granularity ``batch``, where null is 16; other granularities take
    null alone."""
    draws: Count = 20
    """How often each example is scored, under new draws each time; ``layer`` and ``token`` take a whole evaluation per
    draw, the others one per bitmap."""
    probability: Share = 1.0
    """How often a request leaves the baseline."""
    baseline: BitmapSpec | None = None
    """The bitmap at which a request stays when it does not switch; null where the probability is 1."""
    seed: Seed = 0
    """The seed of the draws."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.batch_size is not None and self.granularity != "batch":
            raise ValueError(f"batch_size needs granularity batch: got {self.batch_size} with {self.granularity}")
        if self.baseline is None and self.probability < 1:
            raise ValueError(f"a probability below 1 needs a baseline to stay at: got {self.probability}")
        return self


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
    random_precision: DrawnPrecisionConfig | None = None
    """The random precision inference that is scored besides the bitmaps; null scores at fixed bitmaps alone."""
