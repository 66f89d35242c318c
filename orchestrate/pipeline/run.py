"""Running pipelines: steps that hand each other files, each in its own run directory.

Every step goes through :func:`orchestrate.jobs.run.execute`, so a rerun skips what is finished and unchanged, and goes
on where it was killed.  Where the pipeline has a table, it is filled at the end and written to ``table.json``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from orchestrate.config.sections import WorkersConfig
from orchestrate.document.planned_step import PlannedStep
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.run import check_places, execute, finished_result, model_tag, ray_for, recorded, tracker_of
from orchestrate.pipeline.plan import PipelineConfig, StepConfig, link_shared, load_pipeline, plan, step_configs
from orchestrate.pipeline.tables.check import check_table
from orchestrate.pipeline.tables.fill import fill
from orchestrate.runs.layout import PIPELINE, TABLE
from orchestrate.runs.mlflow_tracker import CLOSING, Run
from orchestrate.runs.progress import say
from qalof.files import write_json
from qalof.home import expanded
from qalof.locks import held
from qalof.writing import check_folder, disk_errors

__all__ = ["PipelineConfig", "StepConfig", "load_pipeline", "run_pipeline", "step_configs"]


def run_pipeline(
    config: PipelineConfig, output: str | Path, address: str | None = None,
    report: Callable[[Path], Path] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run every step; one Ray connection serves them all.

    Args:
        config: the pipeline's config.
        output: a folder below which each step has its run directory; ``pipeline.json`` lists them from the start,
            with the seconds of those that are done.
        address: the address of a Ray cluster.
        report: writes a page about ``output``, and returns its path; None writes none.

    Returns:
        Command, folder and seconds of each step; the seconds of the whole; the table, if there is one; and the path of
        the report.

    Raises:
        BadInputError: a step cannot be run; whatever can be known before is raised before any worker starts.
    """
    output = expanded(output).absolute()
    planned = plan(config, output)
    if config.table is not None:
        check_table(config.table, planned)
    check_folder(output, "--output")
    unfinished = [step for step in planned if finished_result(JOBS[step.command], step.config, step.folder) is None]
    for step in unfinished:
        check_places(step.config, step.folder)
    for step in unfinished:
        if not step.waits:
            JOBS[step.command].check(step.config)
    for tracking in {repr(step.config.tracking): step.config.tracking for step in unfinished}.values():
        tracker_of(tracking)
    with held(output, "--output"):
        with disk_errors(output):
            output.mkdir(parents=True, exist_ok=True)
        with _recorded(config, planned, output, bool(unfinished)) as run:
            ray = _ray_of(config, planned, address) if unfinished else nullcontext()
            summary = _run_planned(config, planned, output, ray, None if run is None else run.key)
            page = None if report is None else report(output)
            for file in (output / PIPELINE, output / TABLE, page):
                if run is not None and file is not None and file.is_file():
                    run.artifact(file)
        return summary if page is None else {**summary, "report": str(page)}


@contextmanager
def _recorded(
    config: PipelineConfig, planned: Sequence[PlannedStep], output: Path, begins: bool
) -> Iterator[Run | None]:
    """Keep the pipeline's own run in MLflow open, under which those of its steps are; there is none where nothing is
    left to do.
    """
    if not begins:
        yield None
        return
    tracker = tracker_of(config.tracking)
    settings = {"title": config.title, "scale": config.scale, "steps": [step.name for step in config.steps]}
    tags = {"command": "run", **model_tag(step.config for step in planned)}
    with recorded(output, tracker, settings, tags) as run:
        tracker.flush(time.monotonic() + CLOSING)  # a step's run looks for the one above it
        yield run


def _ray_of(
    config: PipelineConfig, planned: Sequence[PlannedStep], address: str | None
) -> AbstractContextManager[None]:
    """Connect to a Ray that has room for every step, for the length of a block."""
    workers: list[WorkersConfig] = [step.config.workers for step in planned]
    return ray_for(max(workers, key=_room), address, workers, tracking=config.tracking)


def _run_planned(
    config: PipelineConfig,
    planned: Sequence[PlannedStep],
    output: Path,
    ray: AbstractContextManager[None],
    above: str | None,
) -> dict[str, Any]:
    started = time.monotonic()
    steps: list[dict[str, Any]] = [{"name": step.name, "command": step.command} for step in planned]
    summary: dict[str, Any] = {"title": config.title, "scale": config.scale, "steps": steps}
    (output / TABLE).unlink(missing_ok=True)  # a page of an earlier run, which this one may contradict
    write_json(output / PIPELINE, summary)
    with ray:
        for number, step in enumerate(planned, start=1):
            say(f"[bold]step {number}/{len(planned)}: {step.name} ({step.command})[/bold]")
            steps[number - 1]["seconds"] = _run(step, output, above)
            write_json(output / PIPELINE, summary)
    summary["seconds"] = round(time.monotonic() - started, 1)
    write_json(output / PIPELINE, summary)
    if config.table is None:
        return summary
    table = fill(config.table, planned, config.scale)
    write_json(output / TABLE, table)
    return {**summary, "table": table}


def _room(workers: WorkersConfig) -> tuple[bool, int]:
    return not workers.in_process, workers.count


def _run(step: PlannedStep, output: Path, above: str | None) -> float:
    if step.shared:
        link_shared(step, output)
    seconds: float = execute(step.command, step.config, step.folder, wait=step.shared, above=above)["seconds"]
    return seconds
