"""Strategies that leave the choice to an Optuna sampler: ``tpe``, ``nsga2``, ``random``.

The Optuna study lives in memory, is seeded, and is asked and told in generations of fixed size and in order, so the
choices depend only on the seed and the scores, not on the speed of a worker. The first generation holds the uniform
bitmaps within the limits, so every search includes the baseline that it has to beat.

A choice above the budget is projected into it. The sampler then gets the projected choice in place of its own, because
it would otherwise credit widths that were never evaluated. A bitmap that is already scored is reported to the sampler
at once and not yielded. Where a sampler proposes only known bitmaps, random draws fill the generation, and where these
are all known too, the space counts as exhausted. TPE keeps one density per unit.  A joint density over all units
(Optuna's ``multivariate``) was tried on synthetic models of 24 and 48 units with 80 to 100 evaluations: it found fronts
no better than random draws. Optuna is imported when one of these strategies starts, so the others run where it is not
installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from qalof.laws import Count, Law
from search.strategies.base import Strategy, StrategyContext

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from search.strategies.optuna_draws import Draws

GENERATION_SIZE = 8
PopulationSize = Annotated[int, Law(ge=2)]


def tpe(context: StrategyContext, *, generation_size: Count = GENERATION_SIZE, startup: Count = 16) -> Strategy:
    """Run a tree-structured Parzen estimator; the first ``startup`` choices are uniform bitmaps and random draws."""
    from optuna.samplers import TPESampler

    sampler = TPESampler(seed=context.seed, n_startup_trials=startup, multivariate=False)
    return _sampled(context, sampler, generation_size)


def nsga2(
    context: StrategyContext, *, generation_size: Count = GENERATION_SIZE, population_size: PopulationSize = 16
) -> Strategy:
    """Run NSGA-II: crossover and mutation of non-dominated choices, in populations of ``population_size``."""
    from optuna.samplers import NSGAIISampler

    sampler = NSGAIISampler(seed=context.seed, population_size=population_size)
    return _sampled(context, sampler, generation_size)


def random(context: StrategyContext, *, generation_size: Count = GENERATION_SIZE) -> Strategy:
    """Run independent uniform draws, the baseline that a search has to beat."""
    from optuna.samplers import RandomSampler

    return _sampled(context, RandomSampler(seed=context.seed), generation_size)


def _sampled(context: StrategyContext, sampler: BaseSampler, generation_size: int) -> Strategy:
    from search.strategies.optuna_draws import Draws

    draws = Draws(context, sampler, generation_size)
    return _generations(draws)


def _generations(draws: Draws) -> Strategy:
    while generation := draws.ask():
        draws.tell((yield generation))
