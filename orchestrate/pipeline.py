"""Pipelines: steps that hand each other files, each in a run directory of its own.

A step is a command with its config.  A string ``step:NAME`` in a config stands for the checkpoint of an earlier
step (``step:NAME/file`` for another of its files).  Every step goes through :func:`orchestrate.jobs.execute`, so that
a rerun skips what is finished and unchanged, and goes on where it was killed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from orchestrate.cluster import connect, logical_cpus, physical_cores, worker_environment
from orchestrate.config import Section, TrackingConfig, WorkersConfig
from orchestrate.config_file import validate
from orchestrate.jobs import JOBS, execute
from orchestrate.progress import say
from orchestrate.train_job import CHECKPOINT
from qalof.errors import BadInputError, nearest_hint
from qalof.files import write_json

_REFERENCE = re.compile(r"step:([\w-]+)(?:/(.+))?$")
RESULT = "pipeline.json"


class StepConfig(Section):
    """One step: its name, its command, and the command's config (``workers`` and ``tracking`` are inherited)."""

    name: str = Field(pattern=r"^[\w-]+$")
    command: Literal["train", "evaluate", "sensitivity", "search", "attack", "generate-data"]
    config: dict[str, Any]


class PipelineConfig(Section):
    """``qalof run``: steps in order."""

    command: Literal["run"] = "run"
    title: str = "QaLoF pipeline"
    steps: list[StepConfig] = Field(min_length=1)
    workers: WorkersConfig = WorkersConfig()
    tracking: TrackingConfig = TrackingConfig()


def step_configs(config: PipelineConfig, output: Path) -> list[Section]:
    """Each step's config, references resolved to paths below ``output``.

    Raises:
        BadInputError: a name used twice, a reference to a step that does not come earlier, a bad config.
    """
    inherited = {"workers": config.workers.model_dump(), "tracking": config.tracking.model_dump()}
    folders: dict[str, Path] = {}
    configs = []
    for step in config.steps:
        if step.name in folders:
            raise BadInputError(f"step names must differ: {step.name!r} is used twice")
        data = {**inherited, **_resolve(step.config, folders, step.name)}
        configs.append(validate(JOBS[step.command].config, data, f"step {step.name}"))
        folders[step.name] = output / step.name
    return configs


def run_pipeline(config: PipelineConfig, output: Path, address: str | None = None) -> dict[str, Any]:
    """Run every step; one Ray connection serves them all.

    Args:
        config: of the pipeline.
        output: a folder below which each step has its run directory; ``pipeline.json`` lists them from the start,
            with the seconds of those that are done.
        address: of a Ray cluster.

    Returns:
        Per step: command, folder, seconds; and the seconds of the whole.

    Raises:
        BadInputError: before any worker starts, for whatever can be known then.
    """
    output = output.expanduser().absolute()
    configs = step_configs(config, output)
    for step, step_config in zip(config.steps, configs, strict=True):
        if not _waits(step.config):
            JOBS[step.command].check(step_config)
    workers = max(c.workers.count for c in configs)  # type: ignore[attr-defined]
    started = time.monotonic()
    steps: list[dict[str, Any]] = [{"name": step.name, "command": step.command} for step in config.steps]
    summary: dict[str, Any] = {"title": config.title, "steps": steps}
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / RESULT, summary)
    cores = physical_cores()
    with connect(address, logical_cpus(workers, cores), environment=worker_environment(workers)):
        for number, (step, step_config) in enumerate(zip(config.steps, configs, strict=True), start=1):
            say(f"[bold]step {number}/{len(configs)}: {step.name} ({step.command})[/bold]")
            result = execute(step.command, step_config, output / step.name)
            steps[number - 1]["seconds"] = result["seconds"]
            write_json(output / RESULT, summary)
    summary["seconds"] = round(time.monotonic() - started, 1)
    write_json(output / RESULT, summary)
    return summary


def _resolve(value: Any, folders: Mapping[str, Path], step: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _resolve(item, folders, step) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_resolve(item, folders, step) for item in value]
    match = _REFERENCE.match(value) if isinstance(value, str) else None
    if match is None:
        return value
    if match[1] not in folders:
        raise BadInputError(f"step {step}: there is no earlier step {match[1]!r}; {nearest_hint(match[1], folders)}")
    return str(folders[match[1]] / (match[2] or CHECKPOINT))


def _waits(value: Any) -> bool:
    """Whether a config refers to another step's files, which may not be there yet."""
    if isinstance(value, Mapping):
        return any(_waits(item) for item in value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return any(_waits(item) for item in value)
    return isinstance(value, str) and _REFERENCE.match(value) is not None
