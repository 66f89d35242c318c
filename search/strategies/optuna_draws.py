"""An Optuna study over a space's indices, seen as bitmaps within the budget; see :mod:`search.strategies.sampled`."""

from __future__ import annotations

import math
import random as rng
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial

from qalof.bitmap import Bitmap
from search.budget import Indices
from search.objective import Score
from search.strategies.base import StrategyContext

ASKS_PER_PLACE = 10
"""A sampler is asked this often per place in a generation before random draws fill it."""

RANDOM_DRAWS = 256


@dataclass
class _Asked:
    """A choice that waits for its score; ``trial`` is None for a random draw, which Optuna does not know yet."""

    trial: optuna.Trial | None
    indices: Indices
    projected: Indices


@dataclass
class Draws:
    """Asks and tells an Optuna study; ``size`` is the number of bitmaps in a generation."""

    context: StrategyContext
    sampler: BaseSampler
    size: int
    scores: dict[Indices, Score] = field(default_factory=dict)
    waiting: list[_Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        directions = [{"max": "maximize", "min": "minimize"}[o.direction] for o in self.context.objectives]
        with _quiet():
            self.study = optuna.create_study(sampler=self.sampler, directions=directions)
        self.worst = [-o.sign * math.inf for o in self.context.objectives]
        units = self.context.space.units
        self.names = [unit.name for unit in units]
        self.distributions = {unit.name: IntDistribution(0, unit.choices - 1) for unit in units}
        self.random = rng.Random(self.context.seed)
        self.enqueue(self.context.space.uniform())

    def enqueue(self, bitmaps: Sequence[Bitmap]) -> None:
        """Have bitmaps asked before the sampler chooses any."""
        for bitmap in bitmaps:
            indices = self.context.space.encode(bitmap)
            self.study.enqueue_trial(dict(zip(self.names, indices, strict=True)), skip_if_exists=True)

    def ask(self) -> list[Bitmap]:
        """Return bitmaps that were never scored, all different; the list is empty once none can be found."""
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
        return [self.context.space.bitmap(indices) for indices in fresh]

    def tell(self, scores: Sequence[Score]) -> None:
        """Give the sampler the scores of the last generation, in their order."""
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
        # a sampler would forget a failed trial and propose its like again, so it is told the worst values there are
        values = score.values if score.is_finite else self.worst
        limits = {"limits on metrics": score.violation} if self.context.metric_limits else None
        if asked.trial is not None and asked.indices == asked.projected:
            for name, violation in (limits or {}).items():
                asked.trial.set_constraint(name, violation)
            self.study.tell(asked.trial, values)
            return
        if asked.trial is not None:
            self.study.tell(asked.trial, state=TrialState.FAIL)
        # the sampler's own marks are passed too: NSGA-II counts the generations of its population by them
        marks = {} if asked.trial is None else self._marks(asked.trial)
        params = dict(zip(self.names, asked.projected, strict=True))
        self.study.add_trial(
            create_trial(
                params=params, distributions=self.distributions, values=values, system_attrs=marks, constraints=limits
            )
        )

    def _marks(self, trial: optuna.Trial) -> dict[str, Any]:
        return dict(self.study.get_trials(deepcopy=False)[trial.number].system_attrs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna, which announces each new study; a search may make many."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
