"""Sections that several commands' configs have.

The sections that steer the core *are* the core's own settings classes, which pydantic reads as they stand, so no field
is written twice.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from orchestrate.config.base import BaseConfig, BitmapSpec, Limit
from qalof.laws import Count, Law, Natural, Positive, Seed, Width
from qalof.paths import InputPath, ModelPath, OutputPath


class SourceConfig(BaseConfig):
    """A pretrained model as it stands, with the head that it was trained with."""

    source: ModelPath = "tiny"
    """``tiny``, a local folder, a GGUF file, or a hub name."""


class ModelConfig(SourceConfig):
    """The pretrained model underneath, and the head that a task puts on it."""

    seed: Seed = 0
    """Of a head that the pretrained weights lack."""


class AdaptersConfig(BaseConfig):
    """LoRA adapters, one a width; ``widths`` defaults to those of the objective's bitmaps; [] makes none."""

    widths: list[Width] | None = None
    rank: Count = 8
    alpha: Positive = 16
    dropout: Annotated[float, Law(ge=0, lt=1, off="0 drops nothing")] = 0.0
    rank_by_width: dict[Width, Count] = Field({})
    alpha_by_width: dict[Width, Positive] = Field({})
    rslora: bool = False
    init: str = "kaiming"


class WorkersConfig(BaseConfig):
    """How many processes share the work; ``threads``: torch threads each, None for an equal share of the cores.

    ``in_process``: one worker that is this very process, without Ray: for tiny models, which are done before another
    process has started.
    ``min_count``: training goes on with so few where nodes are lost, and grows back; None for ``count`` or none.
    Other commands begin with so few where the cluster has no room for more; those of one worker refuse it.
    """

    count: Count = 2
    min_count: Annotated[int, Law(ge=1, off="null for count workers or none")] | None = None
    threads: Annotated[int, Law(ge=1, off="null for an equal share of the cores")] | None = None
    gpu: bool = False
    max_failures: Natural = 2
    """How often one piece of work is begun again because its process was lost: an item, a trial, a range test, or
    training from its last checkpoint.  It means the same in every command.  An error that the work itself raises ends
    the command at once, since it would come back.
    """
    in_process: bool = False

    @property
    def device(self) -> str:
        """Of each worker, as torch names it."""
        return "cuda" if self.gpu else "cpu"

    @model_validator(mode="after")
    def _one_process(self) -> Self:
        if self.in_process and self.count != 1:
            raise ValueError(f"in_process needs count 1: got {self.count}")
        return self

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.min_count is not None and self.min_count > self.count:
            raise ValueError(f"min_count must be at most count: got {self.min_count} for {self.count}")
        return self


class OneWorkerConfig(WorkersConfig):
    """As :class:`WorkersConfig`, of a command whose work several workers cannot share."""

    count: Count = 1
    """One."""


def refuse_sharing(workers: WorkersConfig, what: str) -> None:
    """Refuse more workers than one, and a least number of them, where one does all the work.

    Args:
        workers: of the config.
        what: names the work in the message.

    Raises:
        ValueError: ``count`` or ``min_count`` is set.
    """
    for name, alone in (("count", 1), ("min_count", None)):
        if (given := getattr(workers, name)) != alone:
            law = f"workers.{name} has no place in {what}, which is one worker's work"
            raise ValueError(f"{law}: got {given}; leave it out")


class TrackingConfig(BaseConfig):
    """MLflow: ``uri`` of a server, or None for SQLite in ``root``."""

    uri: str | None = None
    root: OutputPath = "runs"
    experiment: str = "qalof"


class JobConfig(BaseConfig):
    """Base of the config of a command."""

    workers: WorkersConfig = WorkersConfig()
    """How many processes share the work."""
    tracking: TrackingConfig = TrackingConfig()
    """Where MLflow keeps the record."""


class EvaluationConfig(BaseConfig):
    """What to score after training: None for every width that was trained; ``limit`` examples, None for all."""

    bitmaps: list[BitmapSpec] | None = None
    limit: Limit | None = None


class KeepBestConfig(BaseConfig):
    """The best checkpoint, kept besides the last: compared at every checkpoint by ``metric``, averaged over bitmaps.

    ``metric``: such as ``max:f1``; ``min:train_loss`` is the mean loss of the steps since the checkpoint before; None
    for the task's own.  ``bitmaps``: None for every trained width; ``limit``: None for that of ``evaluation``.
    """

    metric: str | None = None
    bitmaps: list[BitmapSpec] | None = Field(None, min_length=1)
    limit: Annotated[int, Law(ge=1, off="null takes that of evaluation")] | None = None


class CheckpointConfig(JobConfig):
    """Base of the commands that work on a trained checkpoint, at ``limit`` validation examples."""

    checkpoint: InputPath
    limit: Limit | None = None
