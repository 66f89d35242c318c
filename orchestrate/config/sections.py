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
    """Where the model is: ``tiny`` (the shipped model), a local folder, a GGUF file, or a hub name."""


class ModelConfig(SourceConfig):
    """The pretrained model underneath, and the head that a task puts on it."""

    seed: Seed = 0
    """The seed of a head that the pretrained weights lack."""


class AdaptersConfig(BaseConfig):
    """The LoRA adapters of a model, one per bit-width."""

    widths: list[Width] | None = None
    """The bit-widths that get an adapter; null takes those of the objective's bitmaps, and ``[]`` makes no adapter."""
    rank: Count = 8
    """The rank of a branch."""
    alpha: Positive = 16
    """The numerator of a branch's factor, which is alpha / rank."""
    dropout: Annotated[float, Law(ge=0, lt=1, off="0 drops nothing")] = 0.0
    """The probability with which a feature of a branch's input is dropped in training."""
    rank_by_width: dict[Width, Count] = Field({})
    """The ranks for some bit-widths, in place of ``rank``."""
    alpha_by_width: dict[Width, Positive] = Field({})
    """The alphas for some bit-widths, in place of ``alpha``."""
    rslora: bool = False
    """Whether a branch's factor is alpha / sqrt(rank) instead (rsLoRA, arXiv 2312.03732)."""
    init: str = "kaiming"
    """How a branch begins: ``kaiming``, ``gaussian``, ``orthogonal``, ``loftq``, ``pissa`` or ``olora``."""


class WorkersConfig(BaseConfig):
    """How many processes share the work, and what each of them has."""

    count: Count = 2
    """How many workers or actors share the work."""
    min_count: Annotated[int, Law(ge=1, off="null for count workers or none")] | None = None
    """The fewest workers with which the work goes on. Training shrinks to so few where nodes are lost, and grows back;
    other commands begin with so few where the cluster has no room for more. Null needs all ``count``, and a command
    that is one worker's work takes null alone."""
    threads: Annotated[int, Law(ge=1, off="null for an equal share of the cores")] | None = None
    """How many torch threads each worker has; null gives each an equal share of the cores."""
    gpu: bool = False
    """Whether each worker has a GPU."""
    max_failures: Natural = 2
    """How often one piece of work is begun again because its process was lost: an item, a trial, a range test, or
    training from its last checkpoint. It means the same in every command. An error that the work itself raises ends
    the command at once, since it would come back."""
    in_process: bool = False
    """Whether the one worker is this very process, without Ray. That suits tiny models, which are done before another
    process has started."""

    @property
    def device(self) -> str:
        """The device of each worker, by torch's name."""
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
    """The workers of a command whose work several workers cannot share."""

    count: Count = 1
    """How many workers there are, which is always one."""


def refuse_sharing(workers: WorkersConfig, what: str) -> None:
    """Refuse more workers than one, and a least number of them, where one does all the work.

    Args:
        workers: the ``workers`` section of the config.
        what: names the work in the message.

    Raises:
        ValueError: ``count`` or ``min_count`` is set.
    """
    for name, alone in (("count", 1), ("min_count", None)):
        if (given := getattr(workers, name)) != alone:
            law = f"workers.{name} has no place in {what}, which is one worker's work"
            raise ValueError(f"{law}: got {given}; leave it out")


class TrackingConfig(BaseConfig):
    """Where MLflow keeps the record."""

    uri: str | None = None
    """The URI of a tracking server; null keeps the record in SQLite, in ``root``."""
    root: OutputPath = "runs"
    """The folder of the record where there is no server."""
    experiment: str = "qalof"
    """The name of the experiment in MLflow."""


class JobConfig(BaseConfig):
    """Base of the config of a command."""

    workers: WorkersConfig = WorkersConfig()
    """How many processes share the work."""
    tracking: TrackingConfig = TrackingConfig()
    """Where MLflow keeps the record."""


class EvaluationConfig(BaseConfig):
    """What is scored after training."""

    bitmaps: list[BitmapSpec] | None = None
    """The bitmaps that are scored; null scores every bit-width that was trained, and 32."""
    limit: Limit | None = None
    """How many validation examples are scored, from the first on; null scores all of them."""


class ValidationConfig(BaseConfig):
    """Which scores are made in the middle of training, for validation curves; they change no weight."""

    evaluate_every: Annotated[int, Law(ge=0, off="0 scores after training alone")] = 0
    """How many steps lie between scores in the middle of training, the last of which follow the last step; 0 scores
    after training alone."""
    bitmaps: list[BitmapSpec] | None = Field(None, min_length=1)
    """The bitmaps of the curves; null takes every bit-width that is trained."""
    limit: Annotated[int, Law(ge=1, off="null takes that of evaluation")] | None = None
    """How many validation examples a point of a curve takes, from the first on; null takes the limit of
    ``evaluation``."""


class KeepBestConfig(BaseConfig):
    """How the best checkpoint is chosen: all are compared by one metric, which is averaged over bitmaps."""

    metric: str | None = None
    """The direction and the metric, such as ``max:f1``; ``min:train_loss`` is the mean loss of the steps since the
    checkpoint before, and null takes the task's own metric."""
    bitmaps: list[BitmapSpec] | None = Field(None, min_length=1)
    """The bitmaps over which the metric is averaged; null takes every bit-width that is trained."""
    limit: Annotated[int, Law(ge=1, off="null takes that of evaluation")] | None = None
    """How many validation examples are scored at a checkpoint; null takes the limit of ``evaluation``."""


class CheckpointConfig(JobConfig):
    """Base of the commands that work on a trained checkpoint."""

    checkpoint: InputPath
    """The folder of the checkpoint; in a pipeline also ``step:NAME``."""
    limit: Limit | None = None
    """How many validation examples are scored, from the first on; null scores all of them."""
