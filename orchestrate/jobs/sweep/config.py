"""The config of ``sweep``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from orchestrate.config.base import BaseConfig, BitmapSpec
from orchestrate.config.sections import JobConfig
from qalof.laws import Count, Finite, Law, Seed


class RangeConfig(BaseConfig):
    """Numbers from ``low`` to ``high``, whole ones where both ends are whole."""

    low: Annotated[int, Law()] | Finite
    """The least value, which is included."""
    high: Annotated[int, Law()] | Finite
    """The greatest value, which is included."""
    log: bool = False
    """Whether values are drawn evenly in their logarithm."""

    @property
    def whole(self) -> bool:
        """Whether its numbers are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, generator: np.random.Generator) -> int | float:
        """Draw one number."""
        if self.log:
            value = float(np.exp(generator.uniform(np.log(self.low), np.log(self.high))))
            return round(value) if self.whole else value
        if self.whole:
            return int(generator.integers(int(self.low), int(self.high) + 1))
        return generator.uniform(self.low, self.high)


class AshaConfig(BaseConfig):
    """Successive halving: of the trials that came to a rung, only the best share goes on."""

    grace_steps: Count = 1
    """How many scores every trial reaches before it may be stopped."""
    reduction_factor: Annotated[int, Law(ge=2)] = 3
    """How many trials there are at a rung for each one that goes on."""


class SweepConfig(JobConfig):
    """The config of ``qalof sweep``: a training config, and the settings to vary.

    Without ``asha`` the results do not depend on the number of workers; with it, they depend on which trial ends first.
    """

    command: Literal["sweep"] = "sweep"
    """The command that reads this config."""
    train: dict[str, Any]
    """A whole config of ``qalof train``, but without its workers, tracking, ``validation`` and
    ``keep_best``."""
    space: dict[str, list[Any] | RangeConfig] = Field(min_length=1)
    """The dotted keys of ``train`` that vary, each with a list of values or a range."""
    metric: str | None = None
    """The direction and the metric by which trials are compared, such as ``max:f1``; null takes the task's own."""
    bitmaps: list[BitmapSpec] | None = None
    """The bitmaps over which the metric is averaged; null takes every bit-width that is trained. Where the space
    changes what is trained, name them, or trials are scored on different things."""
    limit: Annotated[int, Law(ge=1, off="null takes that of train.evaluation")] | None = None
    """How many validation examples a score takes; null takes the limit of ``train.evaluation``."""
    strategy: Literal["grid", "random", "tpe"] = "grid"
    """How points are chosen: all combinations (``grid``), ``random`` ones, or Optuna's TPE."""
    samples: Annotated[int, Law(ge=1, off="null for grid, which tries all")] | None = None
    """How many trials ``random`` and ``tpe`` run; null for ``grid``, which runs them all."""
    generation: Count = 4
    """How many points TPE is asked for at once."""
    scheduler: Literal["none", "asha"] = "none"
    """Whether weak trials are stopped early: ``asha`` stops them, ``none`` lets all finish."""
    asha: AshaConfig = AshaConfig()
    """The settings of ASHA."""
    report_every: Annotated[int, Law(ge=1, off="null for training.checkpoint_every")] | None = None
    """How many training steps lie between two scores of a trial; null takes ``training.checkpoint_every``."""
    seed: Seed = 0
    """The seed of all points that are drawn."""

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
                raise ValueError(f"train.{key} has no place in a sweep: give {key} alongside train, or metric")
        if "validation" in self.train:
            raise ValueError(
                "train.validation has no place in a sweep, which scores every trial in the middle of its training: "
                "give report_every, bitmaps and limit alongside train"
            )
        return self
