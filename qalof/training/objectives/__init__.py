"""Training objectives say what a step runs and what it minimizes (docs/methods/objectives.md; docs/methods/cpt.md).

The two questions are answered separately. *What runs at a step* is a :class:`~.choices.Choice`: all bitmaps (spnet,
cascade), one in turn (the cyclic sweep of S2, docs/systems.md), one or some at random, the sandwich of slimmable nets,
a width of its own for each site, or a curriculum.  *What they learn* is :class:`~.switchable.StepwisePrecision`: cross
entropy, and with a :class:`~.distillation.Distillation` the outputs and hidden states of higher bitmaps of the same
step.

:class:`~.adversarial.AdversarialPrecision` learns the labels of attacked embeddings instead (RPT's adversarial step).
CPT runs one width per step by a schedule (:class:`~.cyclic.CyclicPrecisionTraining`).

Every draw is a pure function of seed and step, so workers agree without communication, and a resumed run draws what an
uninterrupted one would have drawn.
"""

from qalof.training.objectives.adversarial import AdversarialPrecision, EmbeddingAttack
from qalof.training.objectives.base import Anchors, Distance, FeatureLayers, Hidden, Losses, Objective, Rows
from qalof.training.objectives.choices import (
    AllBitmaps,
    Choice,
    CurriculumChoice,
    InTurn,
    LayerwiseChoice,
    RandomChoice,
    SandwichChoice,
)
from qalof.training.objectives.cyclic import CyclicPrecisionTraining
from qalof.training.objectives.distillation import Distillation, contrastive_distance, distance, feature_distance
from qalof.training.objectives.switchable import StepwisePrecision, SwitchablePrecision, Weight

__all__ = [
    "AdversarialPrecision",
    "AllBitmaps",
    "Anchors",
    "Choice",
    "CurriculumChoice",
    "CyclicPrecisionTraining",
    "Distance",
    "Distillation",
    "EmbeddingAttack",
    "FeatureLayers",
    "Hidden",
    "InTurn",
    "LayerwiseChoice",
    "Losses",
    "Objective",
    "RandomChoice",
    "Rows",
    "SandwichChoice",
    "StepwisePrecision",
    "SwitchablePrecision",
    "Weight",
    "contrastive_distance",
    "distance",
    "feature_distance",
]
