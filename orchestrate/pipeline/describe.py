"""What a command would do and cost, and what of it is done: for ``--dry-run`` and ``qalof validate`` alike.

Nothing is written and Ray is not started.  A dry run loads neither model nor data; ``validate`` does for a single
command, so it finds all that a run would refuse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrate.config.build import parse_bitmaps
from orchestrate.config.loader import load_config, read_yaml, to_plain
from orchestrate.config.renamed import command_hint
from orchestrate.config.sections import JobConfig
from orchestrate.config.train import TrainConfig
from orchestrate.document.estimate import GPU, Estimate, sites_of
from orchestrate.document.planned_step import PlannedStep, bitmap_specs, owner_of
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.run import check_places
from orchestrate.pipeline.estimate import estimate, estimate_alone, foreseen
from orchestrate.pipeline.plan import PipelineConfig, load_pipeline, plan
from orchestrate.pipeline.tables.check import check_table
from orchestrate.runs.directory import RunDirectory, RunState
from qalof.errors import BadInputError
from qalof.paths import paths_of
from qalof.reading import exists

_SAID = {
    RunState.NEW: "",
    RunState.FINISHED: "finished already: its result is taken as it stands",
    RunState.BEGUN: "begun already: it goes on",
    RunState.ANOTHER: "its folder holds a run of another config or input, which is moved aside",
    RunState.AGAIN: "finished already: done again if what it was made of changes",
}


@dataclass(frozen=True)
class Forecast:
    """What one run would do: its ``text``, how far it is, and its cost, where that is known."""

    name: str
    command: str
    text: str
    folder: Path
    state: RunState
    cost: Estimate | None
    reason: str = ""
    """Why the cost is not known, where a reason can be named."""

    def lines(self) -> list[str]:
        """Say it in lines, of which all but the first are indented."""
        found = [f"  {_SAID[self.state]}"] if _SAID[self.state] else []
        if self.cost is not None:
            found.append(f"  {self.cost.describe()}")
        elif self.reason:
            found.append(f"  the cost is not known: {self.reason}")
        return [self.text, *found]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        cost = None if self.cost is None else {**asdict(self.cost), "hours": self.cost.hours}
        named = {"name": self.name, "command": self.command, "output": str(self.folder), "state": str(self.state)}
        return {**named, "would": self.text, "cost": cost}


@dataclass(frozen=True)
class PipelineForecast:
    """What a pipeline would do, step by step."""

    config: PipelineConfig
    steps: tuple[Forecast, ...]

    @property
    def total(self) -> Estimate:
        """The cost of all steps together, as far as it is known."""
        return sum((step.cost for step in self.steps if step.cost is not None), Estimate())

    @property
    def left(self) -> Estimate:
        """The cost of the steps that are not finished."""
        todo = [step.cost for step in self.steps if step.cost is not None and step.state is not RunState.FINISHED]
        return sum(todo, Estimate())

    def lines(self) -> list[str]:
        """Say it in lines."""
        config, finished = self.config, sum(step.state is RunState.FINISHED for step in self.steps)
        done = f", {finished} of them finished" if finished else ""
        lines = [f"{config.title}: {len(self.steps)} steps{done}, scale {config.scale}"]
        lines += [line for step in self.steps for line in step.lines()]
        lines.append(
            f"together: {self.total.describe()} on {GPU}; shared steps are trained once for all tables in one folder"
        )
        if finished:
            lines.append(f"of which is left: {self.left.describe()}")
        if config.table is not None:
            lines.append(f"table: {config.table.title}, {len(config.table.rows)} rows by {len(config.table.columns)}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        named = {"title": self.config.title, "scale": self.config.scale}
        hours = {"hours": self.total.hours, "hours_left": self.left.hours}
        return {"dry_run": True, **named, "steps": [step.to_json() for step in self.steps], **hours}


def describe_config(path: Path, overrides: Sequence[str]) -> str:
    """Say what a config would run and what it would cost, in the folder that it has by default.

    Raises:
        BadInputError: a run would refuse the config.
    """
    data = read_yaml(path)
    command = data.get("command", "run" if "steps" in data else None)
    if command == "run":
        return "\n".join(forecast_pipeline(load_pipeline(path, overrides), Path("runs") / path.stem).lines())
    if command not in JOBS:
        raise BadInputError(
            f"{path} must say `command:`, got {command!r}; {command_hint(str(command), [*JOBS, 'run'])}"
        )
    return JOBS[command].describe(load_config(JOBS[command].config, path, overrides), check=True)


def forecast_job(command: str, config: JobConfig, output: Path) -> Forecast:
    """Find what a run of one command would do at ``output``.

    Raises:
        BadInputError: the place cannot be used, or a file or folder that the run needs is not there.
    """
    check_places(config, output)
    for key, text, field in paths_of(config):
        path = field.path(text) if field.input and not field.hub else None
        if path is not None and not exists(path):
            raise BadInputError(f"{key} must be there for a run: {path} does not exist; make it first")
    state, cost, reason = _state(command, config, output), None, ""
    try:
        cost = estimate_alone(command, config, output)
    except BadInputError as error:  # such as a model of the hub, which a run would ask for
        reason = str(error)
    return Forecast(output.name, command, JOBS[command].describe(config, check=False), output, state, cost, reason)


def forecast_pipeline(pipeline: PipelineConfig, output: Path) -> PipelineForecast:
    """Find what a pipeline would do below ``output``, in which steps may be finished already.

    Raises:
        BadInputError: a run would refuse the config.
    """
    steps = plan(pipeline, output.absolute())
    if pipeline.table is not None:
        check_table(pipeline.table, steps)
    found: list[Forecast] = []
    for step in steps:
        text = f"{step.name}: {JOBS[step.command].describe(step.config, check=False)}"
        state = _state(step.command, step.config, step.folder)
        if state is RunState.FINISHED and _waits_for(step, found):
            state = RunState.AGAIN
        text += " (shared)" if step.shared else ""
        found.append(Forecast(step.name, step.command, text, step.folder, state, _cost_of(step, steps)))
    return PipelineForecast(pipeline, tuple(found))


def _state(command: str, config: JobConfig, folder: Path) -> RunState:
    return RunDirectory.state(folder, command, to_plain(config), lambda: JOBS[command].inputs(config))


def _waits_for(step: PlannedStep, earlier: Sequence[Forecast]) -> bool:
    """Return whether a step reads files of one that is not finished."""
    plain: Mapping[str, Any] = to_plain(step.config)
    text = json.dumps(plain)
    return any(f"{other.folder}/" in text for other in earlier if other.state is not RunState.FINISHED)


def _cost_of(step: PlannedStep, steps: Sequence[PlannedStep]) -> Estimate | None:
    """Estimate a step's cost; its bitmaps are read with the model's sites first, to find what a run would refuse."""
    owner = owner_of(step, steps)
    if owner is not None and isinstance(owner.config, TrainConfig):
        parse_bitmaps(bitmap_specs(foreseen(step, steps)), sites_of(owner.config))
    return estimate(step, steps)
