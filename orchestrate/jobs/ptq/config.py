"""The config of ``qalof ptq``: which model, which methods, where they are scored."""

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
    """One way to quantize without training.

    ``name``: of its rows and its folder; ``kind``: ``rtn`` rounds to nearest, ``gptq`` compensates errors on the
    calibration examples, as ``gptq`` says; ``quantization``: the quantizers; ``bitmaps``: instead of the common ones.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    kind: Literal["rtn", "gptq"] = "rtn"
    quantization: QuantizationScheme = QuantizationScheme()
    bitmaps: list[BitmapSpec] | None = Field(None, min_length=1)
    gptq: GptqSettings = GptqSettings()


class CalibrationConfig(BaseConfig):
    """Examples of the training split that GPTQ and static ranges see, drawn from ``seed``."""

    examples: Count = 64
    batch_size: Count = 8
    seed: Seed = 0


class PtqConfig(JobConfig):
    """``qalof ptq``: a checkpoint with its own task, or a pretrained ``model`` with ``task`` and ``switch``.

    ``reference``: the method whose row at the same bitmap the others are compared with; the first by default.
    """

    command: Literal["ptq"] = "ptq"
    checkpoint: InputPath | None = None
    model: ModelConfig = ModelConfig()
    task: TaskConfig | None = None
    switch: SwitchSettings = SwitchSettings()
    methods: list[MethodConfig] = Field(min_length=1)
    bitmaps: list[BitmapSpec] = Field([8, 4], min_length=1)
    reference: str | None = None
    calibration: CalibrationConfig = CalibrationConfig()
    limit: Limit | None = None

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
