"""The section ``robustness``: the attack behind the metric ``adversarial_accuracy``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrate.config.attack_method import BertAttackConfig, TextFoolerConfig
from orchestrate.config.base import BaseConfig
from qalof.attacks.methods.textfooler import TextFoolerSettings
from qalof.attacks.robustness.adversarial_accuracy import (
    DRAWS,
    MOST_QUERIES,
    AdversarialAccuracySettings,
    DrawnAround,
)
from qalof.laws import Count, Law, Seed, Width
from qalof.paths import BitmapText


class DrawnAroundConfig(BaseConfig):
    """Random precision around the bitmap that is measured, at which a request stays unless it switches."""

    bitmaps: list[Width | BitmapText] = Field(min_length=1)
    """The bitmaps to draw from when a request switches."""
    probability: Annotated[float, Law(gt=0, lt=1)] = 0.5
    """How often a request leaves the measured bitmap."""
    granularity: Literal["request", "layer"] = "request"
    """What shares a draw: a ``request``, or nothing, since each ``layer`` of a request draws for itself."""
    draws: Count = DRAWS
    """How often the text that was found is read, under new draws each time."""


class RobustnessConfig(BaseConfig):
    """The small attack after which the accuracy that is left is measured."""

    texts: Count = 32
    """How many texts are attacked: the first of those that are scored."""
    method: Annotated[TextFoolerConfig | BertAttackConfig, Field(discriminator="name")] = TextFoolerConfig(
        name="textfooler", settings=TextFoolerSettings(most_queries=MOST_QUERIES)
    )
    """The attack and its settings, whose ``most_queries`` is the budget of one attack."""
    references: list[Width | BitmapText] = Field([32, 4])
    """The bitmaps that are attacked first, whose texts are then tried at every bitmap; an empty list tries none."""
    random_precision: DrawnAroundConfig | None = None
    """The defense around each bitmap that is measured; null measures the fixed bitmap."""
    seed: Seed = 0
    """The seed of the defense's draws."""

    @property
    def settings(self) -> AdversarialAccuracySettings:
        """The same as the library takes it."""
        drawn = self.random_precision
        around = (
            None
            if drawn is None
            else DrawnAround(tuple(drawn.bitmaps), drawn.probability, drawn.granularity, drawn.draws)
        )
        return AdversarialAccuracySettings(self.texts, self.method.settings, tuple(self.references), around, self.seed)
