"""The trainings that are compared; each spends the same number of forward and backward passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qalof.bitmap import Bitmap
from qalof.layer_bits import LayerBits
from qalof.model.adapters import SHARED, AdapterPolicy, AdapterSpec
from qalof.model.switchable import SwitchableModel
from qalof.training.objectives import (
    CurriculumChoice,
    CyclicPrecisionTraining,
    Distillation,
    LayerwiseChoice,
    Objective,
    StepwisePrecision,
    SwitchablePrecision,
)
from qalof.training.objectives.precision_schedule import CyclicPrecision

RANK, ALPHA = 8, 16
LOWEST, HIGHEST = 4, 8


def form(bits: int) -> str:
    """Weights at ``bits``, activations and cache at 8, where this model still works; nothing is rounded from 16 on."""
    return f"w{bits}a8kv8" if bits < 16 else f"w{bits}a{bits}kv{bits}"


@dataclass(frozen=True)
class Method:
    """One way of training.

    Attributes:
        widths: with an adapter each, from high to low; empty for one shared adapter.
        passes_per_step: on average.
        objective: (model, widths, steps) -> what a step runs and minimizes.
        seed: of adapters and of the order of the data.
        policy: which adapter serves a width that has none.
        data: ``squad``, or ``generated`` for texts that the model wrote.
        mixed: whether it is scored on mixed bitmaps too.
    """

    widths: tuple[int, ...]
    passes_per_step: float
    objective: Callable[[SwitchableModel, tuple[int, ...], int], Objective]
    seed: int = 0
    policy: AdapterPolicy = AdapterPolicy.NEAREST_HIGHER
    data: str = "squad"
    mixed: bool = False

    def adapters(self) -> dict[str, AdapterSpec]:
        """By name."""
        return {name: AdapterSpec(RANK, ALPHA) for name in map(str, self.widths)} or {SHARED: AdapterSpec(RANK, ALPHA)}

    def steps(self, passes: int) -> int:
        """How many steps ``passes`` are."""
        return max(1, round(passes / self.passes_per_step))


def uniform(model: SwitchableModel, widths: Sequence[int]) -> tuple[Bitmap, ...]:
    """One bitmap per width."""
    return tuple(Bitmap.parse(form(bits), model.site_names) for bits in widths)


def _switchable(model: SwitchableModel, widths: tuple[int, ...], steps: int) -> Objective:
    return SwitchablePrecision(uniform(model, widths), model.sites)


def _cascade(model: SwitchableModel, widths: tuple[int, ...], steps: int) -> Objective:
    return SwitchablePrecision(uniform(model, widths), model.sites, Distillation())


def _cyclic(model: SwitchableModel, widths: tuple[int, ...], steps: int) -> Objective:
    schedule = CyclicPrecision(LOWEST, HIGHEST, min(32, steps), steps)
    return CyclicPrecisionTraining(model.sites, schedule, layer_bits=lambda bits: LayerBits.parse(form(bits)))


def _curriculum(model: SwitchableModel, widths: tuple[int, ...], steps: int) -> Objective:
    return StepwisePrecision(CurriculumChoice.evenly(uniform(model, widths), steps), model.sites)


class _Layerwise(LayerwiseChoice):
    """Draws of weight widths alone; activations and cache stay at 8 bits."""

    def _draws(self, step: int) -> list[Bitmap]:
        return [
            Bitmap({name: LayerBits.parse(form(bits.weight)) for name, bits in drawn.items()})
            for drawn in super()._draws(step)
        ]


def _layerwise(model: SwitchableModel, widths: tuple[int, ...], steps: int) -> Objective:
    return StepwisePrecision(_Layerwise(model.site_names, widths, 1, 0, uniform(model, widths[:1])), model.sites)


def _data_free(model: SwitchableModel, widths: tuple[int, ...], steps: int) -> Objective:
    return SwitchablePrecision(
        uniform(model, (32, *widths)), model.sites, Distillation(ce_weight=0.0, teachers="highest")
    )


def fixed(spec: Any) -> Callable[[SwitchableModel, tuple[int, ...], int], Objective]:
    """Train one bitmap, given in any form."""

    def objective(model: SwitchableModel, widths: tuple[int, ...], steps: int) -> Objective:
        return SwitchablePrecision([Bitmap.from_json(spec, model.site_names)], model.sites)

    return objective


FIVE = (16, 8, 6, 5, 4)
METHODS = {
    "full_precision": Method((32,), 1, _switchable),
    "spnet": Method((8, 4), 2, _switchable, mixed=True),
    "static_4": Method((4,), 1, _switchable),
    "cpt": Method((), 1, _cyclic, mixed=True),
    "static_8": Method((8,), 1, _switchable),
    "cascade": Method(FIVE, 5, _cascade, mixed=True),
    "spnet_again": Method((8, 4), 2, _switchable, seed=1, mixed=True),
    "cpt_again": Method((), 1, _cyclic, seed=1, mixed=True),
    "static_4_again": Method((4,), 1, _switchable, seed=1),
    "cascade_two": Method((8, 4), 2, _cascade, mixed=True),
    "layerwise": Method((8, 6, 5, 4), 2, _layerwise, mixed=True),
    "data_free_4": Method((4,), 2, _data_free, policy=AdapterPolicy.NONE, data="generated"),
    "curriculum": Method((8, 6, 5, 4), 2.5, _curriculum, mixed=True),
    "spnet_five": Method(FIVE, 5, _switchable, mixed=True),
    "static_5": Method((5,), 1, _switchable),
    "static_6": Method((6,), 1, _switchable),
}
"""In the order in which they are run."""

SEEDS = {"spnet": "spnet_again", "cpt": "cpt_again", "static_4": "static_4_again"}
"""Methods that are trained with a second seed, which changes the adapters' start and the order of the data."""

MAIN = ("full_precision", "spnet", "static_4", "cpt", "static_8")
"""Those that everything else is compared with; they come before the post-training baselines."""

SEARCHED = "cpt"
"""The model in whose adapters a search is made: the best one at mixed bitmaps, and its one adapter was trained at all
the widths that the search mixes."""

MIXED = {
    "striped": "striped:w8a8kv8/w4a8kv8",
    "hybrid": "hybrid:w8a8kv8/w4a8kv8",
    "attention at 4": "components:w4a8kv8/w8a8kv8",
    "MLP at 4": "components:w8a8kv8/w4a8kv8",
    "first third at 4": "thirds:w4a8kv8/w8a8kv8/w8a8kv8",
    "middle third at 4": "thirds:w8a8kv8/w4a8kv8/w8a8kv8",
    "last third at 4": "thirds:w8a8kv8/w8a8kv8/w4a8kv8",
}
"""S1's hybrid and S3's grids (docs/systems.md), at 8 and 4 bits."""
