"""The config of ``qalof export``: which checkpoint, at which bitmap, in which format."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import model_validator

from orchestrate.config.base import BitmapSpec
from orchestrate.config.sections import JobConfig, OneWorkerConfig, refuse_sharing
from qalof.export.float_type import FloatType
from qalof.laws import Width
from qalof.paths import InputPath


class ExportFormat(StrEnum):
    """The format: ``packed`` has exact integers, ``gguf`` is one file with adapters merged, ``gguf-lora`` has one file
    for the base and one per adapter, and ``compressed-tensors`` is a folder for transformers and vLLM.
    """

    PACKED = "packed"
    GGUF = "gguf"
    GGUF_LORA = "gguf-lora"
    COMPRESSED = "compressed-tensors"

    @property
    def place(self) -> str:
        """The name of the folder or file in the run directory of an export."""
        return "model.gguf" if self is ExportFormat.GGUF else str(self)


class ThisProcessConfig(OneWorkerConfig):
    """The worker of an export, which is the process of the command itself."""

    in_process: bool = True
    """Whether the one worker is this very process, without Ray, which is always so."""

    @model_validator(mode="after")
    def _one_process(self) -> Self:
        # the config of the command refuses other numbers, and names the whole key
        return self


class ExportConfig(JobConfig):
    """The config of ``qalof export``."""

    command: Literal["export"] = "export"
    """The command that reads this config."""
    checkpoint: InputPath
    """The folder of the checkpoint; in a pipeline also ``step:NAME``."""
    bitmap: BitmapSpec
    """The bitmap at which the checkpoint is written; in a pipeline also ``{step: NAME, best: {average_bits: 4.5}}``."""
    format: ExportFormat = ExportFormat.PACKED
    """The format that is written."""
    embedding_bits: Width | Literal["none"] | None = None
    """The width of an input embedding that is no site of the model, and of a head that shares it; ``none`` keeps them
    as they are, and null takes 8."""
    float_type: FloatType = FloatType.FLOAT32
    """The type of the numbers that have no width: norms, biases, positions."""
    workers: ThisProcessConfig = ThisProcessConfig()
    """The worker that writes, which is always this very process."""

    @model_validator(mode="after")
    def _one_worker(self) -> Self:
        refuse_sharing(self.workers, "an export")
        if not self.workers.in_process:
            raise ValueError(
                "workers.in_process must be true for an export, which needs no Ray: got false; leave it out"
            )
        return self
