"""What a config would do and cost, as ``qalof validate`` says it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrate.config.base import Section
from orchestrate.config.build import parse_bitmaps
from orchestrate.config.loader import load_config, read_yaml
from orchestrate.config.train import TrainConfig
from orchestrate.document.estimate import GPU, Estimate, sites_of, training_passes
from orchestrate.document.formats import count_of
from orchestrate.document.planned_step import PlannedStep, bitmap_specs, owner_of
from orchestrate.jobs.generate_data.job import GenerateConfig
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.search.config import SearchConfig
from orchestrate.jobs.sweep.config import SweepConfig
from orchestrate.jobs.sweep.plan import SweepPlan, trial_config
from orchestrate.pipeline.estimate import estimate
from orchestrate.pipeline.plan import PipelineConfig, load_pipeline, plan
from orchestrate.pipeline.tables.check import check_table
from qalof.errors import BadInputError, nearest_hint
from qalof.model.adapters import adapter_parameters


def describe_config(path: Path, overrides: Sequence[str]) -> str:
    """What a config would run and what it would cost.

    Raises:
        BadInputError: whatever a run would refuse.
    """
    data = read_yaml(path)
    command = data.get("command", "run" if "steps" in data else None)
    if command == "run":
        return _describe_pipeline(load_pipeline(path, overrides), Path("runs").absolute() / path.stem)
    if command not in JOBS:
        raise BadInputError(
            f"{path} must say `command:`, got {command!r}; {nearest_hint(str(command), [*JOBS, 'run'])}"
        )
    return _describe(command, load_config(JOBS[command].config, path, overrides), check=True)


def _describe_pipeline(pipeline: PipelineConfig, output: Path) -> str:
    steps = plan(pipeline, output)
    if pipeline.table is not None:
        check_table(pipeline.table, steps)
    lines, total = [f"{pipeline.title}: {len(steps)} steps, scale {pipeline.scale}"], Estimate()
    for step in steps:
        lines.append(f"{step.name}: {_describe(step.command, step.config)}{' (shared)' if step.shared else ''}")
        cost = _cost_of(step, steps)
        if cost is not None:
            lines.append(f"  {cost.describe()}")
            total += cost
    lines.append(
        f"together: {total.describe()} on {GPU}; shared steps are trained once for all tables beside each other"
    )
    if pipeline.table is not None:
        lines.append(f"table: {pipeline.table.title}, {len(pipeline.table.rows)} rows by {len(pipeline.table.columns)}")
    return "\n".join(lines)


def _cost_of(step: PlannedStep, steps: Sequence[PlannedStep]) -> Estimate | None:
    """A step's cost; its bitmaps are read on the model's sites first, for what a run would refuse."""
    owner = owner_of(step, steps)
    if owner is not None and isinstance(owner.config, TrainConfig):
        parse_bitmaps(bitmap_specs(step), sites_of(owner.config))
    return estimate(step, steps)


def _describe(command: str, config: Section, check: bool = False) -> str:
    if isinstance(config, TrainConfig) and command == "train":
        return _describe_training(config, check)
    if isinstance(config, GenerateConfig):
        how = config.generation
        count = f"{JOBS[command].check(config).count:,}" if check else how.count or "all"
        return f"{command}: {count} texts by {how.start}, up to {how.max_length} tokens, {config.workers.count} actors"
    if isinstance(config, SweepConfig):
        good = " (every value is good)" if check and JOBS[command].check(config) else ""
        trials = config.samples or len(SweepPlan(config).points)
        base = _describe_training(trial_config(config, {}), check=False)
        return f"sweep: {trials} trials by {config.strategy} on {config.workers.count} actors{good}, each {base}"
    checked = " (checkpoint and space are good)" if check and JOBS[command].check(config) else ""
    if isinstance(config, SearchConfig):
        most = "as many" if config.max_evaluations is None else f"up to {config.max_evaluations}"
        return f"search: {config.strategy}, {most} evaluations on {count_of(config.workers.count, 'actor')}{checked}"
    if command == "range-test":
        return f"range-test: widths one after the other in one worker{checked.replace('checkpoint', 'config')}"
    return f"{command}: on {count_of(config.workers.count, 'actor')}{checked}"  # type: ignore[attr-defined]


def _describe_training(config: TrainConfig, check: bool) -> str:
    training, workers = config.training, config.workers.count
    line = (
        f"train: {config.objective.name} on {config.task.name}, {training.steps} steps "
        f"of {training.batch_size} sequences on {count_of(workers, 'worker')}"
    )
    if not check:
        return line
    parts = JOBS["train"].check(config)
    runs = training_passes(config, parts.objective)
    model = parts.model.model
    adapters = {name: sum(p.numel() for p in adapter_parameters(model, name).values()) for name in parts.model.adapters}
    return "\n".join(
        [
            line,
            f"  model {config.model.source}: {sum(p.numel() for p in model.parameters()):,} parameters with adapters, "
            f"{len(parts.model.sites)} sites",
            f"  adapters: {', '.join(f'{name} with {count:,} parameters' for name, count in adapters.items())}",
            f"  data: {len(parts.task.train_features()):,} training examples, "
            f"{training.steps * training.batch_size / len(parts.task.train_features()):.1f} passes",
            f"  cost: {runs:,} forward and backward passes of {training.batch_size} sequences, "
            f"{training.batch_size // workers} a worker",
        ]
    )
