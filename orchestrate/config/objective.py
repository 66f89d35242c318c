"""The ``objective`` section of a training config, one class a kind, and the core's objective of each.

``bitmaps`` are read by :meth:`qalof.bitmap.Bitmap.parse`, in any order unless a kind says otherwise.  Whatever is
drawn comes from ``training.seed`` and the step.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from orchestrate.config.base import BaseConfig, BitmapSpec
from qalof.bitmap import Bitmap
from qalof.cost import average_bits
from qalof.laws import Count, Law, Natural, Positive, Width
from qalof.laws import Weight as Factor
from qalof.layer_bits import LayerBits
from qalof.site import Site
from qalof.training.objectives import (
    AdversarialPrecision,
    AllBitmaps,
    Anchors,
    Choice,
    CurriculumChoice,
    CyclicPrecisionTraining,
    Distillation,
    EmbeddingAttack,
    FeatureLayers,
    InTurn,
    LayerwiseChoice,
    Objective,
    RandomChoice,
    SandwichChoice,
    StepwisePrecision,
    Weight,
)
from qalof.training.objectives.precision_schedule import CyclicPrecision, Flip, Form, Shape


class StaticObjective(BaseConfig):
    """One bitmap, plain quantization-aware fine-tuning; 32 is full precision."""

    name: Literal["static"]
    bitmap: BitmapSpec = 32


class SpnetObjective(BaseConfig):
    """All bitmaps on every batch."""

    name: Literal["spnet"]
    bitmaps: list[BitmapSpec] = Field([8, 4], min_length=1)
    weight: Weight = "mean"


class CascadeObjective(BaseConfig):
    """All bitmaps on every batch, lower ones distilled from higher ones."""

    name: Literal["cascade"]
    bitmaps: list[BitmapSpec] = Field([8, 4], min_length=2)
    weight: Weight = "mean"
    beta: Factor = 1.0
    distance: Literal["kl", "mse"] = "kl"
    teachers: Literal["all_higher", "highest"] = "all_higher"
    temperature: Positive = 1.0


class SelfDistillationObjective(BaseConfig):
    """S4: all bitmaps, the lower ones distilled from outputs and hidden states of the highest.

    ``beta`` and ``feature_weight`` are S4's alpha_1 and alpha_2; ``ce_weight`` weighs the labels below the highest.
    """

    name: Literal["self_distillation"]
    bitmaps: list[BitmapSpec] = Field([32, 8, 4], min_length=2)
    weight: Weight = "mean"
    beta: Factor = 1.0
    temperature: Positive = 2.0
    ce_weight: Factor = 0.0
    feature_weight: Factor = 0.01
    features: FeatureLayers = "all"


class ContrastiveObjective(BaseConfig):
    """All bitmaps, the representations of lower ones drawn to those of higher ones by InfoNCE, besides the labels.

    ``beta`` weighs the KL of the outputs, which a cascade has alone.
    """

    name: Literal["contrastive"]
    bitmaps: list[BitmapSpec] = Field([8, 4], min_length=2)
    weight: Weight = "mean"
    beta: Factor = 0.0
    teachers: Literal["all_higher", "highest"] = "highest"
    contrastive_weight: Positive = 0.1
    contrastive_temperature: Positive = 0.1
    contrastive: Anchors = "answers"


class CyclicSweepObjective(BaseConfig):
    """S2's cyclic: one bitmap a step, round and round in the order given, each with its adapters."""

    name: Literal["cyclic"]
    bitmaps: list[BitmapSpec] = Field([2, 4, 8], min_length=1)


class SandwichObjective(BaseConfig):
    """The highest, the lowest and ``middle`` random bitmaps a step (slimmable networks).

    By default those below the highest learn from its outputs alone; None: from the labels alone.
    """

    name: Literal["sandwich"]
    bitmaps: list[BitmapSpec] = Field([8, 6, 5, 4], min_length=2)
    middle: Natural = 2
    weight: Weight = "mean"
    distillation: Distillation | None = Distillation(teachers="highest", ce_weight=0.0)


class RandomObjective(BaseConfig):
    """``count`` different bitmaps a step, drawn uniformly."""

    name: Literal["random"]
    bitmaps: list[BitmapSpec] = Field([8, 6, 5, 4], min_length=1)
    count: Count = 2
    weight: Weight = "mean"
    distillation: Distillation | None = None


class RandomPrecisionTraining(BaseConfig):
    """RPT (Double-Win Quant): one bitmap a step, drawn uniformly, each with its adapters.

    With ``attack`` it learns from embeddings attacked at that bitmap; None: from clean ones.
    """

    name: Literal["rpt"]
    bitmaps: list[BitmapSpec] = Field([8, 6, 5, 4], min_length=1)
    attack: EmbeddingAttack | None = None


class LayerwiseObjective(BaseConfig):
    """``count`` bitmaps a step in which each site draws its own of ``widths``, beside ``always``."""

    name: Literal["layerwise"]
    widths: list[Width] = Field([8, 4], min_length=1)
    count: Count = 1
    always: list[BitmapSpec] = Field([])
    weight: Weight = "mean"
    distillation: Distillation | None = None


class CurriculumObjective(BaseConfig):
    """Bitmaps join one by one, in the order given, at the shares ``joins`` of the steps; None: evenly spaced."""

    name: Literal["curriculum"]
    bitmaps: list[BitmapSpec] = Field([8, 6, 4], min_length=1)
    joins: list[Annotated[float, Law(ge=0, lt=1)]] | None = None
    weight: Weight = "mean"
    distillation: Distillation | None = None


class CptObjective(BaseConfig):
    """CPT: one width a step, in cycles; one shared adapter.

    ``shape``, ``form`` and ``flip`` choose the schedule (:mod:`qalof.training.objectives.precision_schedule`);
    ``gradient_bits``: width of the gradients of sites' outputs, rounded stochastically; None leaves them as they are.
    Weights cycle, and with them activations and KV cache, unless these are held at a width of their own.
    """

    name: Literal["cpt"]
    lowest: Width = 4
    highest: Width = 8
    cycles: Count = 32
    official_remainder: bool = False
    shape: Shape = "cosine"
    form: Form = "repeated"
    flip: Flip = "vertical"
    gradient_bits: Annotated[int, Law(ge=2, le=16, others=(32,), off="null leaves gradients as they are")] | None = None
    activation: Literal["same"] | Width = "same"
    """Width of the activations: that of the step's weights, or one that stays; 32 leaves them as they are."""
    kv: Literal["same"] | Width = "same"
    """Width of the KV cache: that of the step's weights, or one that stays; 32 leaves it as it is."""

    def schedule(self, steps: int) -> CyclicPrecision:
        """The width of each of ``steps``.

        Raises:
            BadInputError: widths in the wrong order, or more cycles than steps.
        """
        low, high, remainder = self.lowest, self.highest, self.official_remainder
        return CyclicPrecision(low, high, self.cycles, steps, remainder, self.shape, self.form, self.flip)

    def layer_bits(self, bits: int) -> LayerBits:
        """What every site runs at in a step of ``bits``.

        Raises:
            BadInputError: a width that does not exist.
        """
        activation, kv = (bits if held == "same" else held for held in (self.activation, self.kv))
        return LayerBits(bits, activation, kv)

    @property
    def trained(self) -> list[BitmapSpec]:
        """What every site runs at over the cycles, from high to low, as a config writes it."""
        layers = [str(self.layer_bits(bits)) for bits in range(self.highest, self.lowest - 1, -1)]
        return [int(layer) if layer.isdigit() else layer for layer in layers]


Switching = (
    StaticObjective
    | SpnetObjective
    | CascadeObjective
    | SelfDistillationObjective
    | ContrastiveObjective
    | CyclicSweepObjective
    | SandwichObjective
    | RandomObjective
    | RandomPrecisionTraining
    | LayerwiseObjective
    | CurriculumObjective
)
"""Objectives whose widths have adapters of their own."""

ObjectiveConfig = Annotated[Switching | CptObjective, Field(discriminator="name")]

OBJECTIVES: tuple[type[BaseConfig], ...] = typing.get_args(Switching | CptObjective)
"""The classes of all objectives' configs."""


def parse_bitmaps(specs: Sequence[BitmapSpec], sites: Sequence[Site]) -> list[Bitmap]:
    """Bitmaps as configs write them."""
    names = [site.name for site in sites]
    return [Bitmap.parse(spec, names) for spec in specs]


def objective_widths(config: Switching, sites: Sequence[Site]) -> list[int]:
    """The weight widths that any site may run at, from low to high."""
    drawn = set(config.widths) if isinstance(config, LayerwiseObjective) else set()
    return sorted(drawn | {bits.weight for b in parse_bitmaps(_specs(config), sites) for bits in b.values()})


def make_objective(config: ObjectiveConfig, sites: Sequence[Site], steps: int, seed: int = 0) -> Objective:
    """The core's objective of a config, for a run of ``steps`` whose draws come from ``seed``.

    Raises:
        BadInputError: bitmaps that do not fit the sites, or a schedule that does not fit the steps.
    """
    if isinstance(config, CptObjective):
        return CyclicPrecisionTraining(sites, config.schedule(steps), config.gradient_bits, config.layer_bits)
    weight: Weight = getattr(config, "weight", "mean")
    if isinstance(config, RandomPrecisionTraining) and config.attack is not None:
        return AdversarialPrecision(_choice(config, sites, steps, seed), sites, config.attack, weight, seed)
    return StepwisePrecision(_choice(config, sites, steps, seed), sites, _distillation(config), weight, seed)


def _choice(config: Switching, sites: Sequence[Site], steps: int, seed: int) -> Choice:
    pool = tuple(parse_bitmaps(_specs(config), sites))
    match config:
        case CyclicSweepObjective():
            return InTurn(pool)
        case SandwichObjective():
            ordered = sorted(pool, key=lambda bitmap: -average_bits(bitmap, sites))
            return SandwichChoice(tuple(ordered), config.middle, seed)
        case RandomObjective():
            return RandomChoice(pool, config.count, seed)
        case RandomPrecisionTraining():
            return RandomChoice(pool, 1, seed)
        case LayerwiseObjective():
            names = tuple(site.name for site in sites)
            return LayerwiseChoice(names, tuple(config.widths), config.count, seed, pool)
        case CurriculumObjective():
            if config.joins is None:
                return CurriculumChoice.evenly(pool, steps)
            return CurriculumChoice(pool, tuple(config.joins), steps)
    return AllBitmaps(pool)


def _distillation(config: Switching) -> Distillation | None:
    if isinstance(config, CascadeObjective):
        return Distillation(config.beta, config.distance, config.teachers, config.temperature)
    if isinstance(config, ContrastiveObjective):
        return Distillation(**config.model_dump(exclude={"name", "bitmaps", "weight"}))
    if isinstance(config, SelfDistillationObjective):
        learnt = config.model_dump(include={"beta", "temperature", "ce_weight", "feature_weight", "features"})
        return Distillation(teachers="highest", **learnt)
    return getattr(config, "distillation", None)


def _specs(config: Switching) -> list[BitmapSpec]:
    match config:
        case StaticObjective():
            return [config.bitmap]
        case LayerwiseObjective():
            return config.always
    return config.bitmaps
