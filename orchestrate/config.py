"""Configs as types: complete, and strict about their keys.

One class a command.  The sections that steer the core *are* the core's own settings classes (pydantic reads
plain dataclasses as they stand), so that no field is written twice.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from orchestrate.objective_config import ObjectiveConfig
from orchestrate.section import BitmapSpec, Limit, Section
from qalof.laws import Count, Law, Natural, Positive, Seed, Width
from qalof.model.settings import SwitchSettings
from qalof.paths import InputPath, ModelPath, OutputPath
from qalof.tasks.classification import ClassificationSettings
from qalof.tasks.language_modeling import LanguageModelingSettings
from qalof.tasks.squad_completion import CompletionSettings
from qalof.tasks.squad_span import SpanSettings
from qalof.tasks.zero_shot import ZeroShotSettings
from qalof.training.loop import TrainSettings


class SourceConfig(Section):
    """A pretrained model as it stands, with the head that it was trained with."""

    source: ModelPath = "tiny"
    """``tiny``, a local folder, a GGUF file, or a hub name."""


class ModelConfig(SourceConfig):
    """The pretrained model underneath, and the head that a task puts on it."""

    seed: Seed = 0
    """Of a head that the pretrained weights lack."""


class AdaptersConfig(Section):
    """LoRA adapters, one a width; ``widths`` defaults to those of the objective's bitmaps; [] makes none."""

    widths: list[Width] | None = None
    rank: Count = 8
    alpha: Positive = 16
    dropout: Annotated[float, Law(ge=0, lt=1, off="0 drops nothing")] = 0.0
    rank_by_width: dict[Width, Count] = Field({})
    alpha_by_width: dict[Width, Positive] = Field({})
    rslora: bool = False
    init: str = "kaiming"


class SpanTaskConfig(Section):
    """Extractive question answering."""

    name: Literal["squad-span"]
    settings: SpanSettings = SpanSettings()


class CompletionTaskConfig(Section):
    """Question answering as completion."""

    name: Literal["squad-completion"]
    settings: CompletionSettings = CompletionSettings()


class ClassificationTaskConfig(Section):
    """Text classification."""

    name: Literal["classification"]
    settings: ClassificationSettings = ClassificationSettings()


class LanguageModelingTaskConfig(Section):
    """Next-token loss on plain text."""

    name: Literal["language-modeling"]
    settings: LanguageModelingSettings = LanguageModelingSettings()


class ZeroShotTaskConfig(Section):
    """Multiple-choice benchmarks, for evaluation alone."""

    name: Literal["zero-shot"]
    settings: ZeroShotSettings = ZeroShotSettings()


TaskConfig = Annotated[
    SpanTaskConfig | CompletionTaskConfig | LanguageModelingTaskConfig | ClassificationTaskConfig | ZeroShotTaskConfig,
    Field(discriminator="name"),
]


class WorkersConfig(Section):
    """How many processes share the work; ``threads``: torch threads each, None for an equal share of the cores.

    ``in_process``: one worker that is this very process, without Ray: for tiny models, which are done before another
    process has started.
    ``min_count``: training goes on with so few where nodes are lost, and grows back; None for ``count`` or none.
    Other commands begin with so few where the cluster has no room for more; those of one worker refuse it.
    ``max_failures``: how often the work of a lost worker is done again (an item's, a trial's, or training from the last
    checkpoint) before the command gives up.
    """

    count: Count = 2
    min_count: Annotated[int, Law(ge=1, off="null for count workers or none")] | None = None
    threads: Annotated[int, Law(ge=1, off="null for an equal share of the cores")] | None = None
    gpu: bool = False
    max_failures: Natural = 2
    in_process: bool = False

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


def refuse_min_count(workers: WorkersConfig, what: str) -> None:
    """Refuse a least number of workers where one does all the work.

    Args:
        workers: of the config.
        what: names the work in the message.

    Raises:
        ValueError: ``min_count`` is set.
    """
    if workers.min_count is not None:
        law = f"workers.min_count has no place in {what}, which is one worker's work"
        raise ValueError(f"{law}: got {workers.min_count}; leave it out")


class TrackingConfig(Section):
    """MLflow: ``uri`` of a server, or None for SQLite in ``root``."""

    uri: str | None = None
    root: OutputPath = "runs"
    experiment: str = "qalof"


class EvaluationConfig(Section):
    """What to score after training: None for every width that was trained; ``limit`` examples, None for all."""

    bitmaps: list[BitmapSpec] | None = None
    limit: Limit | None = None


class KeepBestConfig(Section):
    """The best checkpoint, kept besides the last: compared at every checkpoint by ``metric``, averaged over bitmaps.

    ``metric``: such as ``max:f1``; ``min:train_loss`` is the mean loss of the steps since the checkpoint before; None
    for the task's own.  ``bitmaps``: None for every trained width; ``limit``: None for that of ``evaluation``.
    """

    metric: str | None = None
    bitmaps: list[BitmapSpec] | None = Field(None, min_length=1)
    limit: Annotated[int, Law(ge=1, off="null takes that of evaluation")] | None = None


class TrainingConfig(Section):
    """What is trained, and how: base of the commands that train."""

    model: ModelConfig = ModelConfig()
    task: TaskConfig
    adapters: AdaptersConfig = AdaptersConfig()
    switch: SwitchSettings = SwitchSettings()
    objective: ObjectiveConfig
    training: TrainSettings = TrainSettings()
    workers: WorkersConfig = WorkersConfig()
    tracking: TrackingConfig = TrackingConfig()


class TrainConfig(TrainingConfig):
    """``qalof train``."""

    command: Literal["train"] = "train"
    evaluation: EvaluationConfig = EvaluationConfig()
    keep_best: KeepBestConfig | None = None


class CheckpointConfig(Section):
    """Base of the commands that work on a trained checkpoint, at ``limit`` validation examples."""

    checkpoint: InputPath
    limit: Limit | None = None
    workers: WorkersConfig = WorkersConfig()
    tracking: TrackingConfig = TrackingConfig()


class EvaluateConfig(CheckpointConfig):
    """``qalof evaluate``; ``bitmaps`` None takes every width that has an adapter, and 32.

    ``task``: what to score it on; None for the task that it was trained for.
    """

    command: Literal["evaluate"] = "evaluate"
    task: TaskConfig | None = None
    bitmaps: list[BitmapSpec] | None = None


class SensitivityConfig(CheckpointConfig):
    """``qalof sensitivity``: what each unit suffers when it alone is rounded to fewer bits."""

    command: Literal["sensitivity"] = "sensitivity"
    score: Literal["metric", "output_error"] = "metric"
    """``metric``: what lowering a unit costs on the task; ``output_error``: MSE, MAE and relative MSE of each site's
    output against full precision, on training examples (``limit``: how many, 64 where it is null)."""
    reference: Width = 8
    """Bits of all other units, and of the unit before it is lowered; of the score ``metric`` alone."""
    lowered: list[Width | str] = Field([4], min_length=1)
    """Bits to lower to: a number for weights, activations and KV cache together; of the score ``output_error`` also
    ``w4`` for weights alone, ``w4a8`` or ``w4a8kv8``."""
    unit: Literal["site", "block"] = "site"
    """What is lowered at once; an output error is a site's."""
    metric: str | None = None
    """The task's metric to rank by, None for its own; of the score ``metric`` alone."""

    @property
    def widths(self) -> list[int]:
        """What :attr:`lowered` holds for the score ``metric``."""
        return [bits for bits in self.lowered if not isinstance(bits, str)]

    @model_validator(mode="after")
    def _score(self) -> Self:
        if self.score == "metric":
            named = [bits for bits in self.lowered if isinstance(bits, str)]
            if named:
                raise ValueError(f"lowered must hold numbers for the score metric: got {named[0]!r}; 4 for example")
            return self
        for name in ("reference", "metric"):
            if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no place with the score output_error, which compares with full precision")
        if self.unit != "site":
            raise ValueError(f"unit must be site for the score output_error: got {self.unit}; a block has many outputs")
        return self


class SpaceConfig(Section):
    """Which widths a search may give to a site; ``same`` follows the weight."""

    weight: list[Width] | None = Field(None, min_length=1)
    """Widths of a weight; None for every width that has an adapter (2, 4 and 8 where adapters have no widths)."""
    activation: Literal["same"] | list[Width] = "same"
    kv: Literal["same"] | list[Width] | None = "same"
    group: Literal["site", "block"] = "site"


class SearchConfig(CheckpointConfig):
    """``qalof search``; objectives default to the task's metric and the weight's bytes."""

    command: Literal["search"] = "search"
    space: SpaceConfig = SpaceConfig()
    objectives: list[str] | None = None
    strategy: str = "tpe"
    strategy_options: dict[str, Any] = Field({})
    max_evaluations: Annotated[int, Law(ge=1, off="null leaves the end to the strategy")] | None = 64
    limits: dict[str, Annotated[float, Law(ge=0)]] = Field({})
    """Cost -> greatest value: ``average_bits``; ``weight_bytes``, the sites' packed weights; ``total_bytes``, all
    tensors of the packed model, its adapters included; or another cost.  No bitmap is scored that packs to more."""
    seed: Seed = 0
