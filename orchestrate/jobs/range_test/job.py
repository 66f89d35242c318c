"""CPT's precision range test as a command: which widths the cycles should run between.

It is one worker's work, since the widths follow one another on the same weights, and ``workers.count`` is not used.
Unless it runs in this process, it is a Ray task, so a cluster's GPU can do it.  An interrupted test starts again; a
finished one is taken as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import field_serializer, model_validator
from rich.console import RenderableType

from orchestrate.cluster.admission import admitted, told_what_is_missing
from orchestrate.cluster.evaluation_pool import as_options, threads_of
from orchestrate.cluster.failure_policy import FailurePolicy
from orchestrate.config.build import TrainComponents, build_training
from orchestrate.config.loader import to_plain, validate
from orchestrate.config.objective import OBJECTIVES, CptObjective, ObjectiveConfig
from orchestrate.config.sections import OneWorkerConfig, refuse_sharing
from orchestrate.config.train import TrainConfig, TrainingConfig
from orchestrate.document.blocks import Block, Statement
from orchestrate.document.estimate import Estimate, learned
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.record import Record, Step
from orchestrate.jobs.base import Job, Result
from orchestrate.jobs.range_test.findings import RangeTested, range_tested
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.mlflow_tracker import Run
from orchestrate.runs.progress import progress_bar
from qalof.errors import BadInputError
from qalof.laws import Count, Share, Width
from qalof.layer_bits import LayerBits
from qalof.reading import first_line
from qalof.training.loop import TrainSettings
from qalof.training.range_test import precision_range_test

OVERRIDDEN = {
    "steps": "each width runs `iterations` steps",
    "schedule": "the learning rate is constant, since a falling one would make the later widths seem to learn less",
    "warmup_steps": "the learning rate is constant",
    "checkpoint_every": "an interrupted test starts again",
}
"""The settings of a training that a range test has no use for, each with the reason."""
OF_OBJECTIVE = {"name", "bitmap", "bitmaps", "widths", "always", "activation", "kv"}
"""The settings of objectives that say which widths have adapters, or which tensors cycle."""
UNUSED_OF_OBJECTIVE = {name for kind in OBJECTIVES for name in kind.model_fields} - OF_OBJECTIVE
"""All other settings of objectives, for which a range test has no use."""


class RangeTestConfig(TrainingConfig):
    """The config of ``qalof range-test``, which is a training config.

    Of ``objective`` only two things are read: which bit-widths there are adapters for, and which tensors of CPT cycle.
    """

    command: Literal["range-test"] = "range-test"
    """The command that reads this config."""
    objective: ObjectiveConfig = CptObjective(name="cpt")
    """Which bit-widths have adapters, and which tensors cycle under CPT; its other settings are refused."""
    lowest: Width = 2
    """The lowest bit-width, at which the test begins."""
    highest: Width = 8
    """The highest bit-width that is tried."""
    iterations: Count = 100
    """How many steps each bit-width runs."""
    window: Count = 10
    """How many last steps of a bit-width its loss is averaged over."""
    threshold: Share = 0.01
    """The relative fall of the loss above which a bit-width counts as learning."""
    workers: OneWorkerConfig = OneWorkerConfig()
    """The worker that trains."""

    @model_validator(mode="before")
    @classmethod
    def _overridden(cls, data: Any) -> Any:
        training = data.get("training") if isinstance(data, Mapping) else None
        for name in training if isinstance(training, Mapping) else ():
            if name in OVERRIDDEN:
                raise ValueError(f"training.{name} has no place in a range test: {OVERRIDDEN[name]}; leave it out")
        objective = data.get("objective") if isinstance(data, Mapping) else None
        for name in objective if isinstance(objective, Mapping) else ():
            if name in UNUSED_OF_OBJECTIVE:
                why = "every step trains one width, of lowest to highest, on the labels alone"
                raise ValueError(f"objective.{name} has no place in a range test: {why}; leave it out")
        return data

    @model_validator(mode="after")
    def _one_worker(self) -> Self:
        refuse_sharing(self.workers, "a range test")
        return self

    @field_serializer("training")
    def _without_overridden(self, training: TrainSettings) -> dict[str, Any]:
        return {name: value for name, value in asdict(training).items() if name not in OVERRIDDEN}

    @field_serializer("objective")
    def _without_unused(self, objective: ObjectiveConfig) -> dict[str, Any]:
        return objective.model_dump(exclude=UNUSED_OF_OBJECTIVE)


def check(config: RangeTestConfig) -> TrainComponents:
    """Find everything that can be wrong, without a worker.

    Raises:
        BadInputError: bounds or a window do not fit, or parts do not fit together.
    """
    if config.lowest > config.highest:
        raise BadInputError(f"lowest must not exceed highest: got {config.lowest} and {config.highest}")
    if config.window > config.iterations:
        raise BadInputError(f"window must not exceed iterations {config.iterations}: got {config.window}")
    return build_training(config)


def range_test(config: RangeTestConfig, parts: TrainComponents, directory: RunDirectory, run: Run) -> dict[str, Any]:
    """Run the test; return the table and the bounds that it recommends, which are None where no width learns."""
    widths = config.highest - config.lowest + 1
    with progress_bar("range-test", widths) as progress:
        found = _work(to_plain(config)) if config.workers.in_process else _on_ray(config)
        progress.update(widths, f"recommended: {found['lowest']} to {found['highest']} bits")
    for row in found["widths"]:
        run.log_metrics({f"range_test.loss.{row['bits']}": row["loss"]})
    return found


def _on_ray(config: RangeTestConfig) -> dict[str, Any]:
    import ray
    from ray.exceptions import NodeDiedError, RayTaskError, WorkerCrashedError

    request, policy = admitted(config.workers, count=1), FailurePolicy(config.workers.max_failures)
    with told_what_is_missing(request):
        # Ray begins a task again whose worker was lost, but not one that raised an error
        task = ray.remote(_work).options(**as_options(request), max_retries=policy.max_failures)
        try:
            found: dict[str, Any] = ray.get(task.remote(to_plain(config)))
        except (WorkerCrashedError, NodeDiedError) as error:
            raise policy.exhausted("the worker of the range test", first_line(error)) from error
        except RayTaskError as error:
            raise error.cause from None
    return found


def _work(plain: dict[str, Any]) -> dict[str, Any]:
    config = validate(RangeTestConfig, plain, "the config")
    torch.set_num_threads(threads_of(config.workers))
    parts = build_training(config)
    trainer = parts.trainer(config.training, config.workers.device)
    trainer.calibrate()
    widths = range(config.lowest, config.highest + 1)
    cycled = config.objective
    layer_bits = cycled.layer_bits if isinstance(cycled, CptObjective) else LayerBits.of
    found = precision_range_test(trainer, widths, config.iterations, config.threshold, config.window, layer_bits)
    rows = [
        {"bits": bits, "loss": loss, "improvement": found.improvements[bits]} for bits, loss in found.losses.items()
    ]
    return {"widths": rows, "lowest": found.lowest, "highest": found.highest, "threshold": config.threshold}


class RangeTestJob(Job[RangeTestConfig, TrainComponents]):
    """``qalof range-test``."""

    name = "range-test"
    config = RangeTestConfig
    settings = (
        ("Model", "model.source"),
        ("Task", "task.name"),
        ("Lowest width", "lowest"),
        ("Highest width", "highest"),
        ("Steps per width", "iterations"),
        ("Steps in a mean", "window"),
        ("Seed", "training.seed"),
    )
    is_about = "CPT's precision range test: between which widths the cycles of training should run."

    def check(self, config: RangeTestConfig) -> TrainComponents:
        """Build everything that the test trains."""
        return check(config)

    def work(self, config: RangeTestConfig, checked: TrainComponents, directory: RunDirectory, run: Run) -> Result:
        """Train at each width in turn."""
        return range_test(config, checked, directory, run)

    def method(self, config: RangeTestConfig) -> str:
        """Name the objective, which says what the widths are for."""
        return config.objective.name

    def describe(self, config: RangeTestConfig, check: bool) -> str:
        """Say that widths follow each other in one worker."""
        good = " (config and space are good)" if check and self.check(config) else ""
        return f"range-test: widths one after the other in one worker{good}"

    def estimate(self, step: PlannedStep, trained: TrainConfig | None) -> Estimate:
        """Count the steps of all widths."""
        config = step.config
        assert isinstance(config, RangeTestConfig)
        steps = (config.highest - config.lowest + 1) * config.iterations
        return learned(steps * config.training.batch_size, config)

    def findings(self, folder: Path, result: Mapping[str, Any]) -> RangeTested:
        """Read the loss of each width, and the bounds."""
        return range_tested(folder, result)

    def section(self, record: Record, step: Step, prefix: str) -> list[Block]:
        """Show the loss by bits as a drawing and as a table."""
        from orchestrate.jobs.range_test.view import range_blocks

        return range_blocks(step.findings, prefix) if isinstance(step.findings, RangeTested) else []

    def statements(self, record: Record, step: Step) -> list[Statement]:
        """Say between which widths cycles should run."""
        from orchestrate.jobs.range_test.view import range_statements

        return range_statements(step.findings) if isinstance(step.findings, RangeTested) else []

    def terminal(self, result: Mapping[str, Any], folder: Path) -> list[RenderableType]:
        """Show the loss of each width."""
        from orchestrate.jobs.range_test.terminal import range_table

        return [range_table(result)]
