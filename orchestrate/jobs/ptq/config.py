"""The config of ``qalof ptq``: which model, which methods, and where they are scored."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from orchestrate.config.base import BaseConfig, BitmapSpec, Limit
from orchestrate.config.sections import JobConfig, ModelConfig
from orchestrate.config.task import TaskConfig
from qalof.errors import BadInputError
from qalof.laws import Count, Seed
from qalof.model.settings import SwitchSettings
from qalof.paths import InputPath
from qalof.post_training.error_compensation import GptqSettings
from qalof.quantization.scheme import QuantizationScheme


class MethodConfig(BaseConfig):
    """One way to quantize without training."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """The name of the method's rows and of its folder."""
    kind: Literal["rtn", "gptq"] = "rtn"
    """The method: ``rtn`` rounds to nearest; ``gptq`` compensates errors on the calibration examples."""
    quantization: QuantizationScheme = QuantizationScheme()
    """The quantizers."""
    bitmaps: list[BitmapSpec] | None = Field(None, min_length=1)
    """The bitmaps at which this method is scored; null takes the common ones."""
    gptq: GptqSettings = GptqSettings()
    """How ``gptq`` compensates errors; ``rtn`` does not read it."""


class CalibrationConfig(BaseConfig):
    """Which examples of the training split GPTQ and static ranges see."""

    examples: Count = 64
    """How many examples are drawn."""
    batch_size: Count = 8
    """How many of them run at once."""
    seed: Seed = 0
    """The seed by which they are drawn."""


class PtqConfig(JobConfig):
    """The config of ``qalof ptq``.

    It names a checkpoint, which has its own task, or a pretrained ``model`` with ``task`` and ``switch``.
    """

    command: Literal["ptq"] = "ptq"
    """The command that reads this config."""
    checkpoint: InputPath | None = None
    """The folder of the checkpoint, in a pipeline also ``step:NAME``; null takes ``model``, ``task`` and ``switch``
    instead."""
    model: ModelConfig = ModelConfig()
    """The pretrained model, where there is no checkpoint."""
    task: TaskConfig | None = None
    """What the pretrained model is scored on; null where there is a checkpoint, which names its task."""
    switch: SwitchSettings = SwitchSettings()
    """How the pretrained model is made switchable."""
    methods: list[MethodConfig] = Field(min_length=1)
    """The methods that are compared."""
    bitmaps: list[BitmapSpec] = Field([8, 4], min_length=1)
    """The bitmaps at which all methods are scored that have none of their own."""
    reference: str | None = None
    """The method with whose row at the same bitmap the others are compared; null takes the first."""
    calibration: CalibrationConfig = CalibrationConfig()
    """The examples that GPTQ and static ranges see."""
    limit: Limit | None = None
    """How many validation examples are scored, from the first on; null scores all of them."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [method.name for method in self.methods]
        for name in names:
            if names.count(name) > 1:
                raise BadInputError(f"methods must have names of their own: {name!r} is used twice")
        if self.reference is not None and self.reference not in names:
            raise BadInputError(f"reference must be one of the methods {', '.join(names)}: got {self.reference!r}")
        if (self.checkpoint is None) == (self.task is None):
            got = "neither" if self.task is None else "both"
            raise BadInputError(f"ptq needs a checkpoint, which names its task, or a task: got {got}")
        return self
