"""What a sweep tries: its config, and which points of the space come next.

A point gives a value to every dotted key of ``space``.  ``grid`` takes all combinations and ``random`` draws each
point by itself from (seed, number), so both are known beforehand; ``tpe`` is Optuna's sampler, which is asked for
``generation`` points at once and told of them in the order of asking, whatever ended first.  So the points are a
function of the config and of the scores alone: the same on any number of workers, and after a kill, where the scores
of finished trials are told again and lead to the same points.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
import optuna
from pydantic import Field, model_validator

from orchestrate.config import KeepBestConfig, TrackingConfig, TrainConfig, WorkersConfig
from orchestrate.config_file import to_plain, validate
from orchestrate.section import BitmapSpec, Section
from qalof.errors import BadInputError
from qalof.laws import Count, Finite, Law, Seed

Point = dict[str, Any]
"""Dotted key to value."""


class RangeConfig(Section):
    """Numbers from ``low`` to ``high``, both included: whole ones where both are; ``log``: even in the logarithm."""

    low: Annotated[int, Law()] | Finite
    high: Annotated[int, Law()] | Finite
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether its numbers are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, generator: np.random.Generator) -> int | float:
        """One number."""
        if self.log:
            value = float(np.exp(generator.uniform(np.log(self.low), np.log(self.high))))
            return round(value) if self.whole else value
        if self.whole:
            return int(generator.integers(int(self.low), int(self.high) + 1))
        return generator.uniform(self.low, self.high)


class AshaConfig(Section):
    """Successive halving: of the trials that came to a rung, the best 1/``reduction_factor`` go on."""

    grace_steps: Count = 1
    reduction_factor: Annotated[int, Law(ge=2)] = 3


class SweepConfig(Section):
    """``qalof sweep``: a training config, and the settings to vary.

    ``train``: a whole config of ``qalof train`` but its workers, tracking and ``keep_best``.  ``space``: dotted keys
    of it, each with a list of values or a range.  ``metric``, ``bitmaps``, ``limit``: as in ``keep_best``; where the
    space changes what is trained, name the bitmaps, or scores are not of the same thing.  ``samples``: trials of
    ``random`` and ``tpe``.  ``report_every``: training steps between scores, None for ``training.checkpoint_every``.
    Without ``asha`` the results do not depend on the number of workers; with it, they depend on what ends first.
    """

    command: Literal["sweep"] = "sweep"
    train: dict[str, Any]
    space: dict[str, list[Any] | RangeConfig] = Field(min_length=1)
    metric: str | None = None
    bitmaps: list[BitmapSpec] | None = None
    limit: Annotated[int, Law(ge=1, off="null takes that of train.evaluation")] | None = None
    strategy: Literal["grid", "random", "tpe"] = "grid"
    samples: Annotated[int, Law(ge=1, off="null for grid, which tries all")] | None = None
    generation: Count = 4
    scheduler: Literal["none", "asha"] = "none"
    asha: AshaConfig = AshaConfig()
    report_every: Annotated[int, Law(ge=1, off="null for training.checkpoint_every")] | None = None
    seed: Seed = 0
    workers: WorkersConfig = WorkersConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _law(self) -> Self:
        for key, values in self.space.items():
            if isinstance(values, RangeConfig) and self.strategy == "grid":
                raise ValueError(f"strategy grid needs lists: space.{key} is a range; take random or tpe")
            if isinstance(values, RangeConfig) and (values.low >= values.high or (values.log and values.low <= 0)):
                law = f"space.{key}: low must be below high, and above 0 with log"
                raise ValueError(f"{law}: got {values.low} and {values.high}")
            if not isinstance(values, RangeConfig) and not values:
                raise ValueError(f"space.{key} must hold a value: got an empty list")
        if (self.samples is None) != (self.strategy == "grid"):
            law = "grid tries every combination and takes no samples, random and tpe need them"
            raise ValueError(f"{law}: got samples {self.samples} for {self.strategy}")
        for key in ("workers", "tracking", "keep_best"):
            if key in self.train:
                raise ValueError(f"train.{key} has no place in a sweep: give {key} beside train, or metric")
        return self


def trial_config(config: SweepConfig, point: Mapping[str, Any]) -> TrainConfig:
    """The training config of a point, one worker's, scored as the sweep says.

    Raises:
        BadInputError: a key that does not exist, or a value that it cannot have.
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
    """The base of all trials, and one for each listed value, by where they stand: they name all that trials read."""
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
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            sampler = optuna.samplers.TPESampler(seed=config.seed, multivariate=False)
            self._study = optuna.create_study(sampler=sampler, direction="maximize")
        else:
            self.points = _grid(config) if config.strategy == "grid" else _random(config)

    def waiting(self) -> list[int]:
        """Numbers of the points that have no score yet; empty at the end."""
        if self.config.strategy == "tpe" and len(self._scores) == len(self.points) < (self.config.samples or 0):
            self._next_generation()
        return [number for number in range(len(self.points)) if number not in self._scores]

    def tell(self, number: int, score: float | None) -> None:
        """A point's score, higher for the better; None for a trial that has none."""
        self._scores[number] = score

    def _next_generation(self) -> None:
        first = len(self.points) - len(self._asked)
        for number, trial in enumerate(self._asked, start=first):
            score = self._scores[number]
            state = None if score is not None else optuna.trial.TrialState.FAIL
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
    if isinstance(values, list):  # by place, for Optuna's categories are no lists
        return values[trial.suggest_categorical(key, range(len(values)))]
    if values.whole:
        return trial.suggest_int(key, int(values.low), int(values.high), log=values.log)
    return trial.suggest_float(key, values.low, values.high, log=values.log)
