"""The section ``robustness``: the attack behind the metric ``adversarial_accuracy``.

It is not the dataclass ``AdversarialAccuracySettings`` of :mod:`qalof.attacks.robustness.adversarial_accuracy` itself,
since a config names its attack (``method: {name: textfooler, ...}``), as that of the command ``attack`` does.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orchestrate.config.attack_method import BertAttackConfig, TextFoolerConfig
from orchestrate.config.base import BaseConfig
from qalof.attacks.methods.textfooler import TextFoolerSettings
from qalof.attacks.robustness.adversarial_accuracy import (
    MOST_QUERIES,
    AdversarialAccuracySettings,
    DrawnAround,
)
from qalof.laws import Count, Seed, Width
from qalof.paths import BitmapText


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
    random_precision: DrawnAround | None = None
    """The defense around each bitmap that is measured; null measures the fixed bitmap."""
    seed: Seed = 0
    """The seed of the defense's draws."""

    @property
    def settings(self) -> AdversarialAccuracySettings:
        """The same as the library takes it."""
        return AdversarialAccuracySettings(
            self.texts, self.method.settings, tuple(self.references), self.random_precision, self.seed
        )
