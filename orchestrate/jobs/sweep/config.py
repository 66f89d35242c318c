"""The config of ``sweep``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from orchestrate.config.base import BaseConfig, BitmapSpec
from orchestrate.config.sections import JobConfig
from qalof.laws import Count, Finite, Law, Seed


class RangeConfig(BaseConfig):
    """Numbers from ``low`` to ``high``, both included: whole ones where both are; ``log``: even in the logarithm."""

    low: Annotated[int, Law()] | Finite
    high: Annotated[int, Law()] | Finite
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether its numbers are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, generator: np.random.Generator) -> int | float:
        """One number."""
        if self.log:
            value = float(np.exp(generator.uniform(np.log(self.low), np.log(self.high))))
            return round(value) if self.whole else value
        if self.whole:
            return int(generator.integers(int(self.low), int(self.high) + 1))
        return generator.uniform(self.low, self.high)


class AshaConfig(BaseConfig):
    """Successive halving: of the trials that came to a rung, the best 1/``reduction_factor`` go on."""

    grace_steps: Count = 1
    reduction_factor: Annotated[int, Law(ge=2)] = 3


class SweepConfig(JobConfig):
    """``qalof sweep``: a training config, and the settings to vary.

    ``train``: a whole config of ``qalof train`` but its workers, tracking and ``keep_best``.  ``space``: dotted keys
    of it, each with a list of values or a range.  ``metric``, ``bitmaps``, ``limit``: as in ``keep_best``; where the
    space changes what is trained, name the bitmaps, or scores are not of the same thing.  ``samples``: trials of
    ``random`` and ``tpe``.  ``report_every``: training steps between scores, None for ``training.checkpoint_every``.
    Without ``asha`` the results do not depend on the number of workers; with it, they depend on what ends first.
    """

    command: Literal["sweep"] = "sweep"
    train: dict[str, Any]
    space: dict[str, list[Any] | RangeConfig] = Field(min_length=1)
    metric: str | None = None
    bitmaps: list[BitmapSpec] | None = None
    limit: Annotated[int, Law(ge=1, off="null takes that of train.evaluation")] | None = None
    strategy: Literal["grid", "random", "tpe"] = "grid"
    samples: Annotated[int, Law(ge=1, off="null for grid, which tries all")] | None = None
    generation: Count = 4
    scheduler: Literal["none", "asha"] = "none"
    asha: AshaConfig = AshaConfig()
    report_every: Annotated[int, Law(ge=1, off="null for training.checkpoint_every")] | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _law(self) -> Self:
        for key, values in self.space.items():
            if isinstance(values, RangeConfig) and self.strategy == "grid":
                raise ValueError(f"strategy grid needs lists: space.{key} is a range; take random or tpe")
            if isinstance(values, RangeConfig) and (values.low >= values.high or (values.log and values.low <= 0)):
                law = f"space.{key}: low must be below high, and above 0 with log"
                raise ValueError(f"{law}: got {values.low} and {values.high}")
            if not isinstance(values, RangeConfig) and not values:
                raise ValueError(f"space.{key} must hold a value: got an empty list")
        if (self.samples is None) != (self.strategy == "grid"):
            law = "grid tries every combination and takes no samples, random and tpe need them"
            raise ValueError(f"{law}: got samples {self.samples} for {self.strategy}")
        for key in ("workers", "tracking", "keep_best"):
            if key in self.train:
                raise ValueError(f"train.{key} has no place in a sweep: give {key} beside train, or metric")
        return self
