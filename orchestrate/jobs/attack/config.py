"""The config of ``qalof attack``: a method with its settings, the bitmaps, and random precision as a defense."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrate.config.attack_method import GbdaConfig, MethodConfig
from orchestrate.config.base import BaseConfig, BitmapSpec
from orchestrate.config.sections import CheckpointConfig
from qalof.attacks.substitutes.sentence_encoder import STATES
from qalof.laws import Count, Law, Seed, Share
from qalof.paths import PathField


class RandomPrecisionConfig(BaseConfig):
    """Random precision inference: which bitmaps are drawn from, how often, and at which grain."""

    bitmaps: list[BitmapSpec] | None = None
    """The bitmaps to draw from; null takes those at which texts are attacked."""
    granularity: Literal["request", "batch", "layer"] = "request"
    """What shares a draw: a ``request``, a ``batch`` of ``batch_size`` requests in a row, or nothing, since each
    ``layer`` of a request draws for itself."""
    batch_size: Annotated[int, Law(ge=1, off="null is 16")] | None = None
    """How many requests in a row share a draw under granularity ``batch``, where null is 16; other granularities take
    null alone."""
    draws: Count = 20
    """How often each text is read, under new draws each time."""
    baseline: BitmapSpec | None = None
    """The bitmap at which a request stays when it does not switch; null where every probability is 1."""
    probabilities: list[Share] = Field([1.0], min_length=1)
    """How often a request leaves the baseline; each probability is a defense of its own."""

    @model_validator(mode="after")
    def _batch(self) -> Self:
        if self.batch_size is not None and self.granularity != "batch":
            raise ValueError(f"batch_size needs granularity batch: got {self.batch_size} with {self.granularity}")
        return self

    @model_validator(mode="after")
    def _baseline(self) -> Self:
        if self.baseline is None and min(self.probabilities) < 1:
            raise ValueError(f"probabilities below 1 need a baseline to stay at: got {self.probabilities}")
        return self


class AdaptiveConfig(BaseConfig):
    """An attacker who knows the defense, and attacks its mean over precisions."""

    draws: Annotated[int, Law(ge=1, off="null is the whole set")] | None = None
    """How many fresh draws each step of the attack averages over, each of which is a query; null averages over the
    whole set, or over 4 draws where layers draw for themselves."""
    combine: Literal["mean", "majority"] = "mean"
    """How readings become one: the ``mean`` of probabilities, or the ``majority`` of labels."""


class AttackConfig(CheckpointConfig):
    """The config of ``qalof attack``: every text is attacked at every bitmap and read at all of them."""

    command: Literal["attack"] = "attack"
    """The command that reads this config."""
    bitmaps: list[BitmapSpec] = Field([32, 8, 4], min_length=1)
    """The bitmaps at which texts are attacked; each text that is found is read at all of them."""
    method: MethodConfig = GbdaConfig()
    """The attack and its settings."""
    random_precision: RandomPrecisionConfig = RandomPrecisionConfig()
    """The defense that is measured alongside the fixed bitmaps."""
    adaptive: AdaptiveConfig | None = None
    """An attacker who knows the defense, beside those who do not; null leaves him out."""
    texts_at_once: Count = 1
    """How many texts a worker attacks in the same forward passes, for attacks on words of a classifier: more is
    faster. Sums of another shape round differently in their last bits, so a text that lies next to the decision may
    come out otherwise with another number; with the same number, results are the same whatever the workers. A run that
    was cut off attacks what is missing together with the same texts as before."""
    encoder: Annotated[str, PathField(words=(STATES,), hub=True)] = STATES
    """What judges by a cosine whether an attacked text still means what it did: ``states`` (mean hidden states of the
    language model), or the folder of a sentence encoder, such as ``cache:all-MiniLM-L6-v2``."""
    seed: Seed = 0
    """The seed of the attack and of the defense's draws; the attack's draws depend on text and bitmap too."""
