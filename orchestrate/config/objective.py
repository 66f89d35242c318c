"""The ``objective`` section of a training config, with one class per kind.

``bitmaps`` are read by :meth:`qalof.bitmap.Bitmap.parse`, in any order unless a kind says otherwise.  Whatever is
drawn comes from ``training.seed`` and the step.  :mod:`orchestrate.config.build_objective` makes the core's objectives.
"""

from __future__ import annotations

import typing
from typing import Annotated, Literal

from pydantic import Field

from orchestrate.config.base import BaseConfig, BitmapSpec, KvText
from qalof.laws import Count, Law, Natural, Positive, Width
from qalof.laws import Weight as Factor
from qalof.layer_bits import LayerBits, read_kv
from qalof.training.objectives import Anchors, Distillation, EmbeddingAttack, FeatureLayers, Weight
from qalof.training.objectives.precision_schedule import CyclicPrecision, Flip, Form, Shape


class StaticObjective(BaseConfig):
    """One bitmap runs at every step: plain quantization-aware fine-tuning."""

    name: Literal["static"]
    """The name by which a config picks this objective."""
    bitmap: BitmapSpec = 32
    """The bitmap that is trained; 32 is full precision."""


class SpnetObjective(BaseConfig):
    """All bitmaps run on every batch (SP-Nets), and each learns from the labels alone."""

    name: Literal["spnet"]
    """The name by which a config picks this objective."""
    bitmaps: list[BitmapSpec] = Field([8, 4], min_length=1)
    """The bitmaps that run at every step, in any order."""
    weight: Weight = "mean"
    """How the losses of a step's bitmaps add up: ``mean`` divides by their number, ``sum`` does not."""


class CascadeObjective(BaseConfig):
    """All bitmaps run on every batch, and lower ones are distilled from higher ones (InstantNet's cascade)."""

    name: Literal["cascade"]
    """The name by which a config picks this objective."""
    bitmaps: list[BitmapSpec] = Field([8, 4], min_length=2)
    """The bitmaps that run at every step, in any order."""
    weight: Weight = "mean"
    """How the losses of a step's bitmaps add up: ``mean`` divides by their number, ``sum`` does not."""
    beta: Factor = 1.0
    """The weight of the distance to each teacher; with 0 the labels alone are learned."""
    distance: Literal["kl", "mse"] = "kl"
    """How outputs are compared: by ``kl`` from teacher to student, or by ``mse`` of centered logits (InstantNet's
    code)."""
    teachers: Literal["all_higher", "highest"] = "all_higher"
    """Who teaches a bitmap: every higher one of the step, or the highest alone."""
    temperature: Positive = 1.0
    """What divides both logits before ``kl``, which is then multiplied by its square."""


class SelfDistillationObjective(BaseConfig):
    """All bitmaps run, and the lower ones learn from outputs and hidden states of the highest (S4)."""

    name: Literal["self_distillation"]
    """The name by which a config picks this objective."""
    bitmaps: list[BitmapSpec] = Field([32, 8, 4], min_length=2)
    """The bitmaps that run at every step; the highest of them teaches the others."""
    weight: Weight = "mean"
    """How the losses of a step's bitmaps add up: ``mean`` divides by their number, ``sum`` does not."""
    beta: Factor = 1.0
    """The weight of the distance between outputs, which is S4's alpha_1."""
    temperature: Positive = 2.0
    """What divides both logits before the KL divergence, which is then multiplied by its square."""
    ce_weight: Factor = 0.0
    """The weight of the labels for bitmaps below the highest; S4 writes no such term."""
    feature_weight: Factor = 0.01
    """The weight of the distance between hidden states, which is S4's alpha_2."""
    features: FeatureLayers = "all"
    """Which hidden states are compared: those of all blocks, of the last one, or of one that is drawn per step."""


class ContrastiveObjective(BaseConfig):
    """All bitmaps run, and InfoNCE draws the representations of lower ones to those of higher ones."""

    name: Literal["contrastive"]
    """The name by which a config picks this objective."""
    bitmaps: list[BitmapSpec] = Field([8, 4], min_length=2)
    """The bitmaps that run at every step, in any order."""
    weight: Weight = "mean"
    """How the losses of a step's bitmaps add up: ``mean`` divides by their number, ``sum`` does not."""
    beta: Factor = 0.0
    """The weight of the KL divergence between outputs, which is all that a cascade has; 0 leaves it out."""
    teachers: Literal["all_higher", "highest"] = "highest"
    """Whose representations a bitmap is drawn to: those of every higher one of the step, or of the highest alone."""
    contrastive_weight: Positive = 0.1
    """The weight of InfoNCE, which is added to the loss of the labels."""
    contrastive_temperature: Positive = 0.1
    """What divides the cosines of InfoNCE; a lower one makes it look at the nearest rivals alone."""
    contrastive: Anchors = "answers"
    """What is compared: tokens that carry the answer, or mean states of sequences."""


class CyclicSweepObjective(BaseConfig):
    """One bitmap runs per step, in turn, each with its own adapters (S2's cyclic training)."""

    name: Literal["cyclic"]
    """The name by which a config picks this objective."""
    bitmaps: list[BitmapSpec] = Field([2, 4, 8], min_length=1)
    """The bitmaps that take turns, in this order."""


class SandwichObjective(BaseConfig):
    """The highest, the lowest and some random bitmaps run at each step (slimmable networks)."""

    name: Literal["sandwich"]
    """The name by which a config picks this objective."""
    bitmaps: list[BitmapSpec] = Field([8, 6, 5, 4], min_length=2)
    """The bitmaps to choose from; the highest and the lowest run at every step."""
    middle: Natural = 2
    """How many of the other bitmaps run too, drawn anew at each step."""
    weight: Weight = "mean"
    """How the losses of a step's bitmaps add up: ``mean`` divides by their number, ``sum`` does not."""
    distillation: Distillation | None = Distillation(teachers="highest", ce_weight=0.0)
    """What bitmaps below the highest learn: by default its outputs alone; with null the labels alone."""


class RandomObjective(BaseConfig):
    """Some bitmaps run at each step, drawn uniformly."""

    name: Literal["random"]
    """The name by which a config picks this objective."""
    bitmaps: list[BitmapSpec] = Field([8, 6, 5, 4], min_length=1)
    """The bitmaps to draw from."""
    count: Count = 2
    """How many different bitmaps run at a step."""
    weight: Weight = "mean"
    """How the losses of a step's bitmaps add up: ``mean`` divides by their number, ``sum`` does not."""
    distillation: Distillation | None = None
    """What lower bitmaps learn from higher ones in addition to the labels; with null they learn from the labels alone.
    """


class RandomPrecisionTraining(BaseConfig):
    """One bitmap runs per step, drawn uniformly, each with its own adapters (RPT of Double-Win Quant)."""

    name: Literal["rpt"]
    """The name by which a config picks this objective."""
    bitmaps: list[BitmapSpec] = Field([8, 6, 5, 4], min_length=1)
    """The bitmaps to draw from."""
    attack: EmbeddingAttack | None = None
    """How the embeddings are attacked at the bitmap that learns from them; with null it learns from clean ones."""


class LayerwiseObjective(BaseConfig):
    """Bitmaps in which each site draws its own bit-width run at each step."""

    name: Literal["layerwise"]
    """The name by which a config picks this objective."""
    widths: list[Width] = Field([8, 4], min_length=1)
    """The bit-widths that each site draws from."""
    count: Count = 1
    """How many bitmaps are drawn at a step."""
    always: list[BitmapSpec] = Field([])
    """The bitmaps that run at every step alongside the drawn ones."""
    weight: Weight = "mean"
    """How the losses of a step's bitmaps add up: ``mean`` divides by their number, ``sum`` does not."""
    distillation: Distillation | None = None
    """What lower bitmaps learn from higher ones in addition to the labels; with null they learn from the labels alone.
    """


class CurriculumObjective(BaseConfig):
    """Bitmaps join one by one as training goes on."""

    name: Literal["curriculum"]
    """The name by which a config picks this objective."""
    bitmaps: list[BitmapSpec] = Field([8, 6, 4], min_length=1)
    """The bitmaps, in the order in which they join."""
    joins: list[Annotated[float, Law(ge=0, lt=1)]] | None = None
    """The share of the steps after which each bitmap joins, 0 for the first; null spaces them evenly."""
    weight: Weight = "mean"
    """How the losses of a step's bitmaps add up: ``mean`` divides by their number, ``sum`` does not."""
    distillation: Distillation | None = None
    """What lower bitmaps learn from higher ones in addition to the labels; with null they learn from the labels alone.
    """


class CptObjective(BaseConfig):
    """One bit-width runs per step, in cycles, and all share one adapter (CPT, arXiv 2101.09868).

    Weights cycle, and with them activations and KV cache, unless these are held at a bit-width of their own.
    ``shape``, ``form`` and ``flip`` choose the schedule (:mod:`qalof.training.objectives.precision_schedule`).
    """

    name: Literal["cpt"]
    """The name by which a config picks this objective."""
    lowest: Width = 4
    """The bit-width at which each cycle begins."""
    highest: Width = 8
    """The bit-width at which each cycle ends."""
    cycles: Count = 32
    """How many cycles the steps are divided into."""
    official_remainder: bool = False
    """Whether the steps that whole cycles leave over are spent at the lowest bit-width, as the official code does;
    otherwise nothing is left over."""
    shape: Shape = "cosine"
    """How the bit-width rises within a cycle."""
    form: Form = "repeated"
    """How cycles follow each other: ``repeated`` rises in every cycle; ``triangular`` falls in even cycles and rises in
    odd ones."""
    flip: Flip = "vertical"
    """How the fall of a triangular schedule mirrors the rise."""
    gradient_bits: Annotated[int, Law(ge=2, le=16, others=(32,), off="null leaves gradients as they are")] | None = None
    """The bit-width of the gradients of sites' outputs, which are rounded stochastically; null leaves gradients as they
    are."""
    activation: Literal["same"] | Width = "same"
    """The bit-width of the activations: that of the step's weights (``same``), or one that stays; 32 leaves them as
    they are."""
    kv: Literal["same"] | KvText | Width = "same"
    """The bit-width of the KV cache: that of the step's weights (``same``), or one that stays, of keys and values alike
    or apart (``k8v4``); 32 leaves it as it is."""

    def schedule(self, steps: int) -> CyclicPrecision:
        """Compute the width of each of ``steps``.

        Raises:
            BadInputError: the widths are in the wrong order, or there are more cycles than steps.
        """
        low, high, remainder = self.lowest, self.highest, self.official_remainder
        return CyclicPrecision(low, high, self.cycles, steps, remainder, self.shape, self.form, self.flip)

    def layer_bits(self, bits: int) -> LayerBits:
        """Say what every site runs at in a step of ``bits``.

        Raises:
            BadInputError: a width does not exist.
        """
        activation = bits if self.activation == "same" else self.activation
        return LayerBits(bits, activation, bits if self.kv == "same" else read_kv(self.kv))

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
"""The objectives whose widths have adapters of their own."""

ObjectiveConfig = Annotated[Switching | CptObjective, Field(discriminator="name")]

OBJECTIVES: tuple[type[BaseConfig], ...] = typing.get_args(Switching | CptObjective)
"""The classes of all objectives' configs."""
