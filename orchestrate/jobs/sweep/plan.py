"""What a sweep tries: its config, and which points of the space come next.

A point gives a value to every dotted key of ``space``.  ``grid`` takes all combinations and ``random`` draws each
point by itself from (seed, number), so both are known beforehand; ``tpe`` is Optuna's sampler, which is asked for
``generation`` points at once, whose scores it gets in the order of asking, whatever ended first.  So the points are a
function of the config and of the scores alone.  They are the same on any number of workers, and after a kill, since the
scores of finished trials are reported again and lead to the same points.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrate.config.loader import to_plain, validate
from orchestrate.config.sections import KeepBestConfig
from orchestrate.config.train import TrainConfig
from orchestrate.jobs.sweep.config import RangeConfig, SweepConfig
from qalof.errors import BadInputError

if TYPE_CHECKING:
    import optuna

Point = dict[str, Any]
"""A point: dotted key -> value."""


def trial_config(config: SweepConfig, point: Mapping[str, Any]) -> TrainConfig:
    """Make the training config of a point, for one worker, scored as the sweep says.

    Raises:
        BadInputError: a key does not exist, or cannot have its value.
    """
    plain = to_plain(config)
    data: dict[str, Any] = {**plain["train"]}
    for key, value in point.items():
        *parents, last = key.split(".")
        node = data
        for part in parents:
            below = node.get(part, {})
            if not isinstance(below, dict):
                raise BadInputError(f"space.{key} must name a setting of train: {part} has none below it")
            node[part] = node = dict(below)
        node[last] = value
    seen = KeepBestConfig(metric=config.metric, bitmaps=config.bitmaps, limit=config.limit)
    workers = {**plain["workers"], "count": 1, "min_count": None}
    data |= {"keep_best": seen.model_dump(), "workers": workers, "tracking": plain["tracking"]}
    shown = ", ".join(f"{key}={value}" for key, value in point.items())
    return validate(TrainConfig, data, f"train{f' with {shown}' if shown else ''}")


def sweep_configs(config: SweepConfig) -> dict[str, TrainConfig]:
    """Return the base of all trials, and a config for each listed value, by their keys: together they name all that
    trials read.
    """
    listed = {key: values for key, values in config.space.items() if isinstance(values, list)}
    single = ((f"space.{key}.{at}.", {key: value}) for key, values in listed.items() for at, value in enumerate(values))
    return {"train.": trial_config(config, {})} | {at: trial_config(config, point) for at, point in single}


class SweepPlan:
    """The points, and what is known of them.  ``points`` grows with ``tpe``."""

    def __init__(self, config: SweepConfig) -> None:
        self.config = config
        self.points: list[Point] = []
        self._scores: dict[int, float | None] = {}
        self._asked: list[optuna.trial.Trial] = []
        if config.strategy == "tpe":
            import optuna

            optuna.logging.set_verbosity(optuna.logging.WARNING)
            sampler = optuna.samplers.TPESampler(seed=config.seed, multivariate=False)
            self._study = optuna.create_study(sampler=sampler, direction="maximize")
        else:
            self.points = _grid(config) if config.strategy == "grid" else _random(config)

    def waiting(self) -> list[int]:
        """Return the numbers of the points that have no score yet; empty at the end."""
        if self.config.strategy == "tpe" and len(self._scores) == len(self.points) < (self.config.samples or 0):
            self._next_generation()
        return [number for number in range(len(self.points)) if number not in self._scores]

    def tell(self, number: int, score: float | None) -> None:
        """Record a point's score, of which a higher one is better; None for a trial that has none."""
        self._scores[number] = score

    def _next_generation(self) -> None:
        from optuna.trial import TrialState

        first = len(self.points) - len(self._asked)
        for number, trial in enumerate(self._asked, start=first):
            score = self._scores[number]
            state = None if score is not None else TrialState.FAIL
            self._study.tell(trial, score, state=state)
        count = min(self.config.generation, (self.config.samples or 0) - len(self.points))
        self._asked = [self._study.ask() for _ in range(count)]
        self.points += [
            {key: _suggest(trial, key, values) for key, values in self.config.space.items()} for trial in self._asked
        ]


def _grid(config: SweepConfig) -> list[Point]:
    lists = [values for values in config.space.values() if isinstance(values, list)]
    return [dict(zip(config.space, values, strict=True)) for values in itertools.product(*lists)]


def _random(config: SweepConfig) -> list[Point]:
    def point(number: int) -> Point:
        generator = np.random.default_rng((config.seed, number))
        return {
            key: values.draw(generator) if isinstance(values, RangeConfig) else values[generator.integers(len(values))]
            for key, values in config.space.items()
        }

    return [point(number) for number in range(config.samples or 0)]


def _suggest(trial: optuna.trial.Trial, key: str, values: list[Any] | RangeConfig) -> Any:
    if isinstance(values, list):  # by index, since Optuna's categories cannot be lists
        return values[trial.suggest_categorical(key, range(len(values)))]
    if values.whole:
        return trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
    return trial.suggest_float(key, values.low, values.high, log=values.log)
