"""``sweep``: many trainings at other settings, compared (:mod:`orchestrate.jobs.sweep.on_tune` runs them)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from orchestrate.config.base import BaseConfig
from orchestrate.config.build import build_training
from orchestrate.config.train import TrainConfig
from orchestrate.document.blocks import Block, Statement
from orchestrate.document.estimate import Estimate
from orchestrate.document.formats import count_of
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.record import Record, Step
from orchestrate.jobs.base import Job, Result
from orchestrate.jobs.sweep.config import RangeConfig, SweepConfig
from orchestrate.jobs.sweep.findings import Swept, swept
from orchestrate.jobs.sweep.plan import SweepPlan, sweep_configs, trial_config
from orchestrate.jobs.train.best_checkpoint import Watched, watched
from orchestrate.jobs.train.job import describe_training, steps_estimated
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.mlflow_tracker import Run

MOST_COUNTED = 50
"""The most trials that are counted one by one; the others count as these do on average."""


def check(config: SweepConfig) -> Watched:
    """Check every value of the space by itself, and every point that is known beforehand.

    Raises:
        BadInputError: one of them cannot be trained or scored.
    """
    base = trial_config(config, {})
    for key, values in config.space.items():
        for value in (values.low, values.high) if isinstance(values, RangeConfig) else values:
            assembled = trial_config(config, {key: value})
            parts = build_training(assembled)
            watched(assembled, parts.model, parts.task)
    for point in SweepPlan(config).points:
        trial_config(config, point)
    parts = build_training(base)
    parts.task.train_features()
    seen = watched(base, parts.model, parts.task)
    assert seen is not None
    return seen


def _scored_at_rungs(config: SweepConfig, trial: TrainConfig) -> TrainConfig:
    """Return a trial whose checkpoints lie where its scores do."""
    training = trial.training
    every = config.report_every or training.checkpoint_every
    return trial.model_copy(update={"training": replace(training, checkpoint_every=every)})


class SweepJob(Job[SweepConfig, Watched]):
    """``qalof sweep``."""

    name = "sweep"
    config = SweepConfig
    settings = (
        ("Settings tried", "space"),
        ("Strategy", "strategy"),
        ("Trials", "samples"),
        ("Scheduler", "scheduler"),
        ("Score", "metric"),
        ("Bitmaps", "bitmaps"),
        ("Validation examples", "limit"),
        ("Seed", "seed"),
    )
    is_about = "Training settings tried against each other, scored on the same examples."

    def check(self, config: SweepConfig) -> Watched:
        """Return every value of the space."""
        return check(config)

    def work(self, config: SweepConfig, checked: Watched, directory: RunDirectory, run: Run) -> Result:
        """Run every trial."""
        from orchestrate.jobs.sweep.on_tune import sweep

        return sweep(config, checked, directory, run)

    def stands_for(self, config: SweepConfig) -> Mapping[str, BaseConfig]:
        """List the base, and every listed value."""
        return sweep_configs(config)

    def method(self, config: SweepConfig) -> str:
        """Name the objective of the trainings."""
        return str(config.train.get("objective", {}).get("name", ""))

    def describe(self, config: SweepConfig, check: bool) -> str:
        """Say how many trials there are, and of what."""
        good = " (every value is good)" if check and self.check(config) else ""
        trials = config.samples or len(SweepPlan(config).points)
        where = f"{config.strategy} on {count_of(config.workers.count, 'actor')}{good}"
        return f"sweep: {trials} trials by {where}, each {describe_training(trial_config(config, {}))}"

    def estimate(self, step: PlannedStep, trained: TrainConfig | None) -> Estimate:
        """Count the steps and scores of every trial that is known beforehand, and as many times those of the base
        where Optuna chooses; trials that ASHA stops count whole.
        """
        config = step.config
        assert isinstance(config, SweepConfig)
        points = SweepPlan(config).points or [{}] * (config.samples or 0)
        trials = [trial_config(config, point) for point in points[:MOST_COUNTED]]
        found = sum((steps_estimated(_scored_at_rungs(config, trial)) for trial in trials), Estimate())
        return found.times(len(points) / len(trials))

    def findings(self, folder: Path, result: Mapping[str, Any]) -> Swept:
        """Return the trials."""
        return swept(folder, result)

    def section(self, record: Record, step: Step, prefix: str) -> list[Block]:
        """Show the trials as a table."""
        from orchestrate.jobs.sweep.view import sweep_table

        return [sweep_table(step.findings)] if isinstance(step.findings, Swept) else []

    def statements(self, record: Record, step: Step) -> list[Statement]:
        """Say how the trials ended, and name the best one."""
        from orchestrate.jobs.sweep.view import sweep_statements

        return sweep_statements(step.findings) if isinstance(step.findings, Swept) else []

    def terminal(self, result: Mapping[str, Any], folder: Path) -> list[RenderableType]:
        """Show the trials, the best first."""
        from orchestrate.jobs.sweep.terminal import sweep_table

        return [sweep_table(result)]
