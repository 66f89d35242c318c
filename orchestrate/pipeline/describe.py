"""What a config would do and cost, which ``qalof validate`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrate.config.build import parse_bitmaps
from orchestrate.config.loader import load_config, read_yaml
from orchestrate.config.renamed import command_hint
from orchestrate.config.train import TrainConfig
from orchestrate.document.estimate import GPU, Estimate, sites_of
from orchestrate.document.planned_step import PlannedStep, bitmap_specs, owner_of
from orchestrate.jobs.registry import JOBS
from orchestrate.pipeline.estimate import estimate, foreseen
from orchestrate.pipeline.plan import PipelineConfig, load_pipeline, plan
from orchestrate.pipeline.tables.check import check_table
from qalof.errors import BadInputError


def describe_config(path: Path, overrides: Sequence[str]) -> str:
    """Say what a config would run and what it would cost.

    Raises:
        BadInputError: a run would refuse the config.
    """
    data = read_yaml(path)
    command = data.get("command", "run" if "steps" in data else None)
    if command == "run":
        return _describe_pipeline(load_pipeline(path, overrides), Path("runs").absolute() / path.stem)
    if command not in JOBS:
        raise BadInputError(
            f"{path} must say `command:`, got {command!r}; {command_hint(str(command), [*JOBS, 'run'])}"
        )
    return JOBS[command].describe(load_config(JOBS[command].config, path, overrides), check=True)


def _describe_pipeline(pipeline: PipelineConfig, output: Path) -> str:
    steps = plan(pipeline, output)
    if pipeline.table is not None:
        check_table(pipeline.table, steps)
    lines, total = [f"{pipeline.title}: {len(steps)} steps, scale {pipeline.scale}"], Estimate()
    for step in steps:
        lines.append(
            f"{step.name}: {JOBS[step.command].describe(step.config, check=False)}{' (shared)' if step.shared else ''}"
        )
        cost = _cost_of(step, steps)
        if cost is not None:
            lines.append(f"  {cost.describe()}")
            total += cost
    lines.append(f"together: {total.describe()} on {GPU}; shared steps are trained once for all tables in one folder")
    if pipeline.table is not None:
        lines.append(f"table: {pipeline.table.title}, {len(pipeline.table.rows)} rows by {len(pipeline.table.columns)}")
    return "\n".join(lines)


def _cost_of(step: PlannedStep, steps: Sequence[PlannedStep]) -> Estimate | None:
    """Estimate a step's cost; its bitmaps are read with the model's sites first, to find what a run would refuse."""
    owner = owner_of(step, steps)
    if owner is not None and isinstance(owner.config, TrainConfig):
        parse_bitmaps(bitmap_specs(foreseen(step, steps)), sites_of(owner.config))
    return estimate(step, steps)
