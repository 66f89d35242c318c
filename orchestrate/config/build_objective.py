"""How the core's objective is made of an ``objective`` section, and which bit-widths that trains."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrate.config.base import BitmapSpec
from orchestrate.config.objective import (
    CascadeObjective,
    ContrastiveObjective,
    CptObjective,
    CurriculumObjective,
    CyclicSweepObjective,
    LayerwiseObjective,
    ObjectiveConfig,
    RandomObjective,
    RandomPrecisionTraining,
    SandwichObjective,
    SelfDistillationObjective,
    StaticObjective,
    Switching,
)
from qalof.bitmap import Bitmap
from qalof.cost import average_bits
from qalof.site import Site
from qalof.training.objectives import (
    AdversarialPrecision,
    AllBitmaps,
    Choice,
    CurriculumChoice,
    CyclicPrecisionTraining,
    Distillation,
    InTurn,
    LayerwiseChoice,
    Objective,
    RandomChoice,
    SandwichChoice,
    StepwisePrecision,
    Weight,
)


def parse_bitmaps(specs: Sequence[BitmapSpec], sites: Sequence[Site]) -> list[Bitmap]:
    """Read bitmaps in the forms that configs have."""
    names = [site.name for site in sites]
    return [Bitmap.parse(spec, names) for spec in specs]


def objective_widths(config: Switching, sites: Sequence[Site]) -> list[int]:
    """Return the weight widths that any site may run at, from low to high."""
    drawn = set(config.widths) if isinstance(config, LayerwiseObjective) else set()
    return sorted(drawn | {bits.weight for b in parse_bitmaps(specs_of(config), sites) for bits in b.values()})


def make_objective(config: ObjectiveConfig, sites: Sequence[Site], steps: int, seed: int = 0) -> Objective:
    """Make the core's objective of a config, for a run of ``steps`` whose draws come from ``seed``.

    Raises:
        BadInputError: bitmaps do not fit the sites, or a schedule does not fit the steps.
    """
    if isinstance(config, CptObjective):
        return CyclicPrecisionTraining(sites, config.schedule(steps), config.gradient_bits, config.layer_bits)
    weight: Weight = getattr(config, "weight", "mean")
    if isinstance(config, RandomPrecisionTraining) and config.attack is not None:
        return AdversarialPrecision(_choice(config, sites, steps, seed), sites, config.attack, weight, seed)
    return StepwisePrecision(_choice(config, sites, steps, seed), sites, _distillation(config), weight, seed)


def _choice(config: Switching, sites: Sequence[Site], steps: int, seed: int) -> Choice:
    pool = tuple(parse_bitmaps(specs_of(config), sites))
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
        learned = config.model_dump(include={"beta", "temperature", "ce_weight", "feature_weight", "features"})
        return Distillation(teachers="highest", **learned)
    return getattr(config, "distillation", None)


def specs_of(config: Switching) -> list[BitmapSpec]:
    """Return the bitmaps of an objective, as its config writes them."""
    match config:
        case StaticObjective():
            return [config.bitmap]
        case LayerwiseObjective():
            return config.always
    return config.bitmaps
