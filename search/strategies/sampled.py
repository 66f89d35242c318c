"""Strategies that leave the choice to an Optuna sampler: ``tpe``, ``nsga2``, ``random``.

The Optuna study lives in memory, is seeded, and is asked and told in generations of fixed size and in order, so the
choices depend only on the seed and the scores, not on the speed of a worker. The first generation holds the uniform
bitmaps within the limits, so every search includes the baseline that it has to beat.  With ``warm_start`` it also holds
the knapsack bitmaps of a table of Fisher scores, from which ``tpe`` and ``nsga2`` go on; ``random`` stays without, as
the baseline that it is.

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
from search.allocation.damage import damages_of, roles_of, spread_front
from search.measurement import ScoresWanted
from search.scores.table import ScoreTable
from search.strategies.base import Strategy, StrategyContext

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

GENERATION_SIZE = 8
SCORE = "fisher"
"""The score of a warm start's table."""
Examples = Annotated[int, Law(ge=1, off="null takes 2,048 tokens")] | None
PopulationSize = Annotated[int, Law(ge=2)]


def tpe(
    context: StrategyContext,
    *,
    generation_size: Count = GENERATION_SIZE,
    startup: Count = 16,
    warm_start: bool = False,
    examples: Examples = None,
) -> Strategy:
    """Run a tree-structured Parzen estimator.

    Args:
        context: space, objectives and seed.
        generation_size: the number of bitmaps in a generation.
        startup: how many choices come first that are uniform bitmaps, knapsack bitmaps and random draws.
        warm_start: whether knapsack bitmaps are among them, for which the evaluator measures a table of scores.
        examples: training examples of that table; None takes 2,048 tokens.
    """
    from optuna.samplers import TPESampler

    sampler = TPESampler(seed=context.seed, n_startup_trials=startup, multivariate=False)
    return _sampled(context, sampler, generation_size, warm_start, examples)


def nsga2(
    context: StrategyContext,
    *,
    generation_size: Count = GENERATION_SIZE,
    population_size: PopulationSize = 16,
    warm_start: bool = False,
    examples: Examples = None,
) -> Strategy:
    """Run NSGA-II: crossover and mutation of non-dominated choices.

    Args:
        context: space, objectives and seed.
        generation_size: the number of bitmaps in a generation of the search.
        population_size: the number of choices in a population.
        warm_start: whether knapsack bitmaps begin the first one, for which the evaluator measures a table of scores.
        examples: training examples of that table; None takes 2,048 tokens.
    """
    from optuna.samplers import NSGAIISampler

    sampler = NSGAIISampler(seed=context.seed, population_size=population_size)
    return _sampled(context, sampler, generation_size, warm_start, examples)


def random(context: StrategyContext, *, generation_size: Count = GENERATION_SIZE) -> Strategy:
    """Run independent uniform draws, the baseline that a search has to beat."""
    from optuna.samplers import RandomSampler

    return _sampled(context, RandomSampler(seed=context.seed), generation_size)


def _sampled(
    context: StrategyContext,
    sampler: BaseSampler,
    generation_size: int,
    warm_start: bool = False,
    examples: int | None = None,
) -> Strategy:
    from search.strategies.optuna_draws import Draws

    draws = Draws(context, sampler, generation_size)
    if warm_start:
        space = context.space
        (taken,) = yield ScoresWanted(SCORE, roles_of(space), examples, context.seed)
        draws.enqueue(spread_front(space, damages_of(space, ScoreTable.from_json(taken))))
    while generation := draws.ask():
        draws.tell((yield generation))
