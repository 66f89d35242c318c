"""What a pipeline's config says: its steps in order, where each runs, and what they hand each other.

A step is a command with its config.  A string ``step:NAME`` in a config stands for the checkpoint of an earlier
step (``step:NAME/file`` for another of its files).  Where a bitmap is wanted,
``{step: NAME, best: {average_bits: 4.5}}`` is the best one of an earlier search that costs at most so much, and
``{step: NAME, id: ogo666}`` the one of that id.

A step that trains or generates data and says ``shared: true`` runs in ``OUTPUT/../shared/COMMAND-DIGEST``, where the
digest is of its config; the pipeline's own folder has a link to it.  So pipelines in neighboring folders that train the
same model, as several of a reference's tables do, train it once, whichever runs first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from orchestrate.config.base import BaseConfig
from orchestrate.config.loader import load_config, to_plain, validate
from orchestrate.config.renamed import command_hint
from orchestrate.config.sections import JobConfig, WorkersConfig
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.table_config import TableConfig
from orchestrate.jobs.registry import JOBS
from orchestrate.pipeline.scales import FULL, OwnScale, scaled
from orchestrate.runs.directory import fingerprint_of
from orchestrate.runs.layout import CHECKPOINT, FRONT
from qalof.errors import BadInputError, nearest_hint

_REFERENCE = re.compile(r"step:([\w-]+)(?:/(.+))?$")

SHARED = "shared"


class StepConfig(BaseConfig):
    """One step of a pipeline; ``workers`` and ``tracking`` are the pipeline's own."""

    name: str = Field(pattern=r"^[\w-]+$")
    """The name of the step, by which later steps refer to it, and of its run directory."""
    command: Annotated[str, Field(json_schema_extra={"enum": sorted(JOBS)})]
    """The command that the step runs; any that is a job."""
    config: dict[str, Any]
    """The config of the command."""
    shared: bool = False
    """Whether other pipelines may use its run, for commands that are shareable."""

    @field_validator("command")
    @classmethod
    def _known(cls, command: str) -> str:
        if command not in JOBS:
            raise BadInputError(f"a step's command must be a job: got {command!r}; {command_hint(command, JOBS)}")
        return command


class PipelineConfig(JobConfig):
    """The config of ``qalof run``: steps in order, and the table that they fill."""

    command: Literal["run"] = "run"
    """The command that reads this config."""
    title: str = "QaLoF pipeline"
    """The heading of the report."""
    steps: list[StepConfig] = Field(min_length=1)
    """The steps, in the order in which they run."""
    table: TableConfig | None = None
    """The table that the steps fill; null for none."""
    scale: str = FULL
    """The size of the experiment, such as ``tiny`` for minutes; ``full`` changes nothing."""
    scales: dict[str, OwnScale] = Field({})
    """What this config itself changes at each scale (:mod:`orchestrate.pipeline.scales`)."""


def load_pipeline(path: Path, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Read a pipeline; an override ``scale=NAME`` is applied before all others.

    Raises:
        BadInputError: one line that names the file, the key and the way out.
    """
    said = [override.partition("=")[2] for override in overrides if override.startswith("scale=")]
    rest = [override for override in overrides if not override.startswith("scale=")]

    def prepare(data: dict[str, Any]) -> dict[str, Any]:
        return scaled(data, said[-1] if said else str(data.get("scale", FULL)))

    return load_config(PipelineConfig, path, rest, prepare)


def plan(config: PipelineConfig, output: Path) -> list[PlannedStep]:
    """Plan the steps, with references resolved to paths below ``output`` or next to it.

    Raises:
        BadInputError: a name is used twice, a reference is to a step that does not come earlier, or a config is bad.
    """
    tracking = config.tracking.model_dump()
    folders: dict[str, Path] = {}
    planned: list[PlannedStep] = []
    for step in config.steps:
        if step.name in folders:
            raise BadInputError(f"step names must differ: {step.name!r} is used twice")
        if step.shared and not JOBS[step.command].shareable:
            may = " or ".join(name for name, job in JOBS.items() if job.shareable)
            raise BadInputError(f"only a step of {may} may be shared: {step.name} is {step.command}; leave it out")
        inherited = {"workers": _workers_for(step.command, config), "tracking": tracking}
        written = _spelled(step.config, step.name, {other.name: other.command for other in planned})
        data = {**inherited, **_resolve(written, folders, step.name)}
        checked = validate(JOBS[step.command].config, data, f"step {step.name}")
        folders[step.name] = _shared_folder(step.command, checked, output) if step.shared else output / step.name
        planned.append(PlannedStep(step.name, step.command, checked, folders[step.name], step.shared, _waits(written)))
    return planned


def _workers_for(command: str, config: PipelineConfig) -> dict[str, Any]:
    """Find what a step inherits of the pipeline's workers; a step whose work cannot be shared has one."""
    if JOBS[command].shares_work:
        return config.workers.model_dump()
    own: WorkersConfig = JOBS[command].config.model_fields["workers"].default
    here = config.workers.in_process or own.in_process
    return config.workers.model_dump() | {"count": 1, "min_count": None, "in_process": here}


def step_configs(config: PipelineConfig, output: Path) -> list[BaseConfig]:
    """Find each step's config; see :func:`plan`."""
    return [step.config for step in plan(config, output)]


def link_shared(step: PlannedStep, output: Path) -> None:
    """Let ``output/NAME`` lead to a shared step's run directory.

    Raises:
        BadInputError: there is something else.
    """
    link = output / step.name
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        raise BadInputError(f"{link} must be free for a link to {step.folder}: it holds another run; move it away")
    link.symlink_to(Path("..") / step.folder.relative_to(output.parent))


def _shared_folder(command: str, config: BaseConfig, output: Path) -> Path:
    return output.parent / SHARED / f"{command}-{fingerprint_of(command, to_plain(config))[:12]}"


def _spelled(value: Any, step: str, commands: Mapping[str, str]) -> Any:
    """Write every bitmap that names a step and a choice as the text that it stands for.

    Raises:
        BadInputError: the mapping has a key ``step``, and is not of the form that a bitmap has, or names no search.
    """
    if isinstance(value, Mapping) and "step" in value:
        return _bitmap_of(value, step, commands)
    if isinstance(value, Mapping):
        return {key: _spelled(item, step, commands) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_spelled(item, step, commands) for item in value]
    return value


def _bitmap_of(value: Mapping[str, Any], step: str, commands: Mapping[str, str]) -> str:
    best, name, source = value.get("best"), value.get("id"), str(value["step"])
    if commands.get(source, "search") != "search":
        raise BadInputError(
            f"step {step}: a bitmap must be of an earlier search: {source} is a step of {commands[source]}"
        )
    if value.keys() == {"step", "best"} and isinstance(best, Mapping) and len(best) == 1:
        ((cost, limit),) = best.items()
        if isinstance(limit, int | float) and not isinstance(limit, bool):
            return f"step:{source}/{FRONT}#{cost}={limit}"
    elif value.keys() == {"step", "id"} and isinstance(name, str | int) and not isinstance(name, bool):
        return f"step:{source}/{FRONT}#{name}"
    raise BadInputError(
        f"step {step}: a bitmap of an earlier search must read {{step: NAME, best: {{average_bits: 4.5}}}} or "
        f"{{step: NAME, id: ogo666}}: got {dict(value)!r}"
    )


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
    """Return whether a config refers to another step's files, which may not be there yet."""
    if isinstance(value, Mapping):
        return any(_waits(item) for item in value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return any(_waits(item) for item in value)
    return isinstance(value, str) and _REFERENCE.match(value) is not None
