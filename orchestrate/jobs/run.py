"""Running any job alike: check, open the run directory, connect to Ray, open the MLflow run, work, write the result.

A finished run directory is taken as it stands.  Nothing is started before the check has passed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from orchestrate.cluster.admission import admitted, check_device
from orchestrate.cluster.connection import connect, logical_cpus, machines, physical_cores, worker_environment
from orchestrate.config.loader import to_plain
from orchestrate.config.redaction import redact
from orchestrate.config.sections import JobConfig, TrackingConfig, WorkersConfig
from orchestrate.jobs.base import Job, Result
from orchestrate.jobs.registry import JOBS
from orchestrate.runs.datasets import datasets_of
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import CONFIG, ENVIRONMENT, RESULT, TRACKING
from orchestrate.runs.mlflow_store import Place, check_machines, check_root
from orchestrate.runs.mlflow_sync import sync_left
from orchestrate.runs.mlflow_tracker import Resumed, Run, Tracker
from orchestrate.runs.mlflow_writes import new_key
from orchestrate.runs.progress import detail, say
from qalof.files import MANIFEST, json_ready, read_json, write_json, write_text
from qalof.home import expanded
from qalof.locks import held


def execute(
    command: str, config: JobConfig, output: str | Path, address: str | None = None, *, wait: bool = False,
    above: str | None = None,
) -> Result:  # fmt: skip
    """Run a command's job in a run directory, which no other process may use meanwhile.

    Args:
        command: one of :data:`JOBS`.
        config: the command's config, of the class that its job names.
        output: the run directory.
        address: the address of a Ray cluster; None takes this machine, or the cluster that a Ray job runs on.
        wait: whether to wait for another process that uses the run directory, and to take its result then.
        above: the key of the run in MLflow under which this one is, such as that of a pipeline.

    Raises:
        BadInputError: the config or the run directory cannot be used; no worker has started then.
    """
    output = Path(output)
    job = JOBS[command]
    if (finished := finished_result(job, config, output)) is not None:
        return _taken(config, command, output, finished)
    check_places(config, output)
    started = time.monotonic()
    checked = job.check(config)
    detail(f"{command}: config, model and data are checked after {time.monotonic() - started:.1f} s")
    tracker = tracker_of(config.tracking)
    with held(output, "--output", wait=wait):
        directory = RunDirectory.open(output, command, to_plain(config), job.inputs(config), job.carried)
        if (finished := directory.result) is not None:
            return _taken(config, command, directory.path, finished, locked=True)
        for key, digest in job.inputs(config).items():
            detail(f"{command}: input {key} has digest {digest}")
        return _executed(job, config, checked, directory, tracker, address, above)


def check_places(config: JobConfig, output: Path) -> None:
    """Check that a run of ``config`` can write at ``output`` and keep its record; everything stays as it was.

    Raises:
        BadInputError: a place cannot be used; the error names it, and says what is wrong with it.
    """
    RunDirectory.check(output)
    if config.tracking.uri is None:
        check_root(Path(config.tracking.root))


def tracker_of(tracking: TrackingConfig) -> Tracker:
    """Open the record of runs.

    Raises:
        BadInputError: the record cannot be reached, read or written.
    """
    return Tracker.open(Path(tracking.root), tracking.uri, tracking.experiment)


def finished_result(job: Job[Any, Any], config: JobConfig, output: Path) -> Result | None:
    """Read the result of a finished run of this job, config and inputs at ``output``; None where there is none.

    Nothing is loaded, checked or written, so this is what a rerun asks first.
    """
    if not (expanded(output) / RESULT).is_file():
        return None
    return RunDirectory.finished(output, job.name, to_plain(config), job.inputs(config))


def _taken(config: JobConfig, command: str, path: Path, finished: Result, *, locked: bool = False) -> Result:
    sync_left(path, config.tracking, locked=locked)
    say(f"{command}: {path} is finished already; its result is taken as it stands")
    return finished


def _executed(
    job: Job[Any, Any],
    config: JobConfig,
    checked: Any,
    directory: RunDirectory,
    tracker: Tracker,
    address: str | None,
    above: str | None,
) -> Result:
    """Do the work in a run directory that is open and locked."""
    command, tags = directory.command, {"command": directory.command, **tags_of(job, config)}
    started = time.monotonic()
    with (
        ray_for(config.workers, address, tracking=config.tracking),
        recorded(directory.path, tracker, to_plain(config), tags, above) as run,
    ):
        for file in (CONFIG, ENVIRONMENT):
            run.artifact(directory.path / file)
        run.datasets(datasets_of(job.stands_for(config)))
        detail(f"{command}: runs in {directory.path}, recorded under the key {run.key} at {redact(tracker.uri)}")
        result = job.work(config, checked, directory, run)
        for picture in write_pictures(job, directory.path, result):
            run.artifact(picture)
        result["seconds"] = round(time.monotonic() - started, 1)
        detail(f"{command}: done after {result['seconds']:.1f} s; the result is {directory.path / RESULT}")
    return directory.finish(result)


def write_pictures(job: Job[Any, Any], folder: Path, result: Result) -> list[Path]:
    """Write the figures that a job keeps as files into a run directory, and return their paths."""
    written = []
    for plot in job.pictures(folder, json_ready(result)):
        from orchestrate.document.svg import standing_alone

        written.append(folder / f"{plot.name}.svg")
        write_text(written[-1], standing_alone(str(plot.svg)))
    return written


@contextmanager
def recorded(
    folder: Path, tracker: Tracker, params: Mapping[str, Any], tags: Mapping[str, str], above: str | None = None
) -> Iterator[Run]:
    """Keep a run in MLflow open for the length of the block, the same one where the work of ``folder`` goes on.

    Args:
        folder: the run directory, whose name is the run's.
        tracker: the record.
        params: nested settings.
        tags: texts, by which runs are found.
        above: the key of the run under which this one is.
    """
    place = folder / TRACKING
    said = read_json(place, "tracking file") if place.is_file() else None
    earlier = None if said is None else Resumed(said.get("run"), said.get("key"))
    key = (earlier.key if earlier else None) or new_key()
    named = {"key": key, "uri": redact(tracker.uri), "experiment": tracker.place.experiment}
    write_json(place, {"run": earlier.run_id if earlier else None, **named})
    with tracker.parent(folder.name, params, tags, earlier, folder, above, key) as run:
        yield run
    write_json(place, {"run": run.run_id, **named})


def tags_of(job: Job[Any, Any], config: JobConfig) -> dict[str, str]:
    """Return the tags by which runs are found: the model, and the method of the command."""
    method = job.method(config)
    return {**model_tag(job.stands_for(config).values()), **({"method": method} if method else {})}


def model_tag(configs: Iterable[Any]) -> dict[str, str]:
    """Return the tag of the model of several configs; there is none where none is known, or where they differ."""
    sources = {source for each in configs if (source := model_of(each))}
    return {"model": sources.pop()} if len(sources) == 1 else {}


def model_of(config: Any) -> str:
    """Return the source of the pretrained model of a config, or of its checkpoint; empty where there is none."""
    model = getattr(config, "model", None)
    if model is not None:
        return str(model.source)
    manifest = Path(str(getattr(config, "checkpoint", None) or "")) / MANIFEST
    stored = read_json(manifest, "manifest") if manifest.is_file() else {}
    return str(stored["base"].get("source", "")) if isinstance(stored.get("base"), dict) else ""


@contextmanager
def ray_for(
    workers: WorkersConfig, address: str | None = None, others: Sequence[WorkersConfig] = (), *,
    tracking: TrackingConfig,
) -> Iterator[None]:  # fmt: skip
    """Connect to a Ray that has room for ``workers``; nothing is connected where they are this process.

    Raises:
        BadInputError: there can never be room for ``workers``, or for ``others``, which will be needed later; or
            ``tracking`` is an SQLite file, and the cluster has several machines.
    """
    for each in (workers, *others):
        check_device(each, torch.cuda.is_available())
    if workers.in_process:
        yield
        return
    cpus = logical_cpus(workers.count, physical_cores())
    with connect(address, cpus, environment=worker_environment(workers.count)):
        check_machines(machines(), Place(Path(tracking.root), tracking.uri).uri)
        for each in (workers, *others):
            if not each.in_process:
                admitted(each)
        yield
