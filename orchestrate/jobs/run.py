"""Running any job alike: check, open the run directory, connect to Ray, open the MLflow run, work, write the result.

A finished run directory is taken as it stands.  Nothing is started before the check has passed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from orchestrate.cluster.admission import admitted, check_device
from orchestrate.cluster.connection import connect, logical_cpus, physical_cores, worker_environment
from orchestrate.config.loader import to_plain
from orchestrate.config.redaction import redact
from orchestrate.config.sections import JobConfig, TrackingConfig, WorkersConfig
from orchestrate.jobs.base import Job, Result
from orchestrate.jobs.registry import JOBS
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import RESULT, TRACKING
from orchestrate.runs.mlflow_store import check_root
from orchestrate.runs.mlflow_sync import sync_left
from orchestrate.runs.mlflow_tracker import Resumed, Tracker
from orchestrate.runs.mlflow_writes import new_key
from orchestrate.runs.progress import detail, say
from qalof.files import read_json, write_json
from qalof.home import expanded
from qalof.locks import held


def execute(
    command: str, config: JobConfig, output: str | Path, address: str | None = None, *, wait: bool = False
) -> Result:
    """Run a command's job in a run directory, which no other process may use meanwhile.

    Args:
        command: one of :data:`JOBS`.
        config: the command's config, of the class that its job names.
        output: the run directory.
        address: the address of a Ray cluster; None takes this machine, or the cluster that a Ray job runs on.
        wait: whether to wait for another process that uses the run directory, and to take its result then.

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
        return _executed(job, config, checked, directory, tracker, address)


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
) -> Result:
    """Do the work in a run directory that is open and locked."""
    command = directory.command
    place = directory.path / TRACKING
    said = read_json(place, "tracking file") if place.is_file() else None
    earlier = None if said is None else Resumed(said.get("run"), said.get("key"))
    key = (earlier.key if earlier else None) or new_key()
    named = {"key": key, "uri": redact(tracker.uri), "experiment": config.tracking.experiment}
    write_json(place, {"run": earlier.run_id if earlier else None, **named})
    params, tags, name = to_plain(config), {"command": command}, directory.path.name
    started = time.monotonic()
    with (
        ray_for(config.workers, address),
        tracker.parent(name, params, tags, earlier, directory.path, key=key) as run,
    ):
        detail(f"{command}: runs in {directory.path}, recorded under the key {key} at {redact(tracker.uri)}")
        result = job.work(config, checked, directory, run)
        result["seconds"] = round(time.monotonic() - started, 1)
        detail(f"{command}: done after {result['seconds']:.1f} s; the result is {directory.path / RESULT}")
    write_json(place, {"run": run.run_id, **named})
    return directory.finish(result)


@contextmanager
def ray_for(workers: WorkersConfig, address: str | None = None, others: Sequence[WorkersConfig] = ()) -> Iterator[None]:
    """Connect to a Ray that has room for ``workers``; nothing is connected where they are this process.

    Raises:
        BadInputError: there can never be room for ``workers``, or for ``others``, which will be needed later.
    """
    for each in (workers, *others):
        check_device(each, torch.cuda.is_available())
    if workers.in_process:
        yield
        return
    cpus = logical_cpus(workers.count, physical_cores())
    with connect(address, cpus, environment=worker_environment(workers.count)):
        for each in (workers, *others):
            if not each.in_process:
                admitted(each)
        yield
