"""Strategies that leave the choice to an Optuna sampler: ``tpe``, ``nsga2``, ``random``.

The Optuna study lives in memory, is seeded, and is asked and told in generations of fixed size and in order, so
that what is chosen depends on the seed and the scores alone, not on which worker was quick.  The first
generation holds the uniform bitmaps within the limits: every search knows what it has to beat.

A choice above the budget is projected into it.  The sampler is then told of the projected choice in place of
its own, because it would otherwise credit widths that were never evaluated.  A bitmap that is already
scored is told at once and not yielded; where a sampler brings nothing else any more, random draws fill the
generation, and where these are all known too, the space counts as exhausted.

TPE keeps one density a unit.  A joint density over all units (Optuna's ``multivariate``) was tried on synthetic
models of 24 and 48 units with 80 to 100 evaluations: it found fronts no better than random draws.
"""

from __future__ import annotations

import random as rng
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from qalof.bitmap import Bitmap
from search.budget import Indices
from search.objective import Score
from search.strategies.base import Strategy, StrategyContext, check_positive

GENERATION_SIZE = 8
ASKS_PER_PLACE = 10
"""How often a sampler is asked for each place in a generation before random draws fill it."""

RANDOM_DRAWS = 256


def tpe(context: StrategyContext, *, generation_size: int = GENERATION_SIZE, startup: int = 16) -> Strategy:
    """Tree-structured Parzen estimator; the first ``startup`` choices are uniform bitmaps and random draws."""
    startup = check_positive("startup", startup)
    sampler = TPESampler(seed=context.seed, n_startup_trials=startup, multivariate=False)
    return _sampled(context, sampler, generation_size)


def nsga2(context: StrategyContext, *, generation_size: int = GENERATION_SIZE, population_size: int = 16) -> Strategy:
    """NSGA-II: crossover and mutation of the non-dominated, in populations of ``population_size``."""
    population_size = max(2, check_positive("population_size", population_size))
    sampler = NSGAIISampler(seed=context.seed, population_size=population_size)
    return _sampled(context, sampler, generation_size)


def random(context: StrategyContext, *, generation_size: int = GENERATION_SIZE) -> Strategy:
    """Independent uniform draws: the baseline that a search has to beat."""
    return _sampled(context, RandomSampler(seed=context.seed), generation_size)


def _sampled(context: StrategyContext, sampler: BaseSampler, generation_size: int) -> Strategy:
    draws = _Draws(context, sampler, check_positive("generation_size", generation_size))
    return _generations(draws)


def _generations(draws: _Draws) -> Strategy:
    while generation := draws.next_generation():
        draws.tell((yield generation))


@dataclass
class _Asked:
    """A choice that waits for its score; ``trial`` is None for a random draw, of which Optuna knows nothing yet."""

    trial: optuna.Trial | None
    indices: Indices
    projected: Indices


@dataclass
class _Draws:
    """An Optuna study over the indices of a space, seen as bitmaps within the budget."""

    context: StrategyContext
    sampler: BaseSampler
    size: int
    scores: dict[Indices, Score] = field(default_factory=dict)
    waiting: list[_Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        directions = [{"max": "maximize", "min": "minimize"}[o.direction] for o in self.context.objectives]
        with _quiet():
            self.study = optuna.create_study(sampler=self.sampler, directions=directions)
        units = self.context.space.units
        self.names = [unit.name for unit in units]
        self.distributions = {unit.name: IntDistribution(0, unit.choices - 1) for unit in units}
        self.random = rng.Random(self.context.seed)
        for bitmap in self.context.space.uniform():
            indices = self.context.space.encode(bitmap)
            self.study.enqueue_trial(dict(zip(self.names, indices, strict=True)))

    def next_generation(self) -> list[Bitmap]:
        """Bitmaps that were never scored, all different; empty once none can be found."""
        fresh: dict[Indices, None] = {}
        for _ in range(ASKS_PER_PLACE * self.size):
            if len(fresh) == self.size:
                break
            asked = self._ask()
            if asked.projected in self.scores:
                self._tell(asked)
            else:
                fresh[asked.projected] = None
                self.waiting.append(asked)
        for _ in range(RANDOM_DRAWS):
            if len(fresh) == self.size:
                break
            indices = self._random()
            if indices not in self.scores and indices not in fresh:
                fresh[indices] = None
                self.waiting.append(_Asked(None, indices, indices))
        return [self.context.space.decode(indices) for indices in fresh]

    def tell(self, scores: Sequence[Score]) -> None:
        """Give the sampler the scores of the last generation, in the order of its asking."""
        self.scores |= {self.context.space.encode(score.bitmap): score for score in scores}
        waiting, self.waiting = self.waiting, []
        for asked in waiting:
            self._tell(asked)

    def _ask(self) -> _Asked:
        trial = self.study.ask(self.distributions)
        indices = tuple(trial.params[name] for name in self.names)
        return _Asked(trial, indices, self.context.space.budget.lowered(indices))

    def _random(self) -> Indices:
        indices = [self.random.randrange(unit.choices) for unit in self.context.space.units]
        return self.context.space.budget.lowered(indices)

    def _tell(self, asked: _Asked) -> None:
        score = self.scores[asked.projected]
        if asked.trial is not None and asked.indices == asked.projected and score.is_finite:
            self.study.tell(asked.trial, score.values)
            return
        if asked.trial is not None:
            self.study.tell(asked.trial, state=TrialState.FAIL)
        if score.is_finite:
            # the sampler's own marks go along: NSGA-II counts the generations of its population by them
            marks = {} if asked.trial is None else self._marks(asked.trial)
            params = dict(zip(self.names, asked.projected, strict=True))
            self.study.add_trial(
                create_trial(params=params, distributions=self.distributions, values=score.values, system_attrs=marks)
            )

    def _marks(self, trial: optuna.Trial) -> dict[str, Any]:
        return dict(self.study.get_trials(deepcopy=False)[trial.number].system_attrs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna announces each new study; a search may make many."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
