"""``qalof sync``: what earlier commands could not tell MLflow is told now, once and in order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from orchestrate.config.redaction import HIDDEN
from orchestrate.config.sections import TrackingConfig
from orchestrate.runs.layout import TRACKING, TRACKING_QUEUE
from orchestrate.runs.mlflow_queue import Queue
from orchestrate.runs.mlflow_tracker import Tracker
from orchestrate.runs.progress import say
from qalof.errors import BadInputError
from qalof.files import read_json, write_json
from qalof.locks import held
from qalof.reading import is_file


class Synced(NamedTuple):
    """What became of a run directory's queue."""

    folder: Path
    written: int
    left: int


def sync_left(folder: Path, tracking: TrackingConfig, *, locked: bool = False) -> None:
    """Do what a finished run has left, where anything is left; a store that is away still ends nothing.

    ``locked`` says whether the caller holds the run directory already.
    """
    if is_file(folder / TRACKING_QUEUE):
        with nullcontext() if locked else held(folder, "the run directory", wait=True):
            done = _sync(folder, Tracker.open(Path(tracking.root), tracking.uri, tracking.experiment))
        say(f"MLflow was told what {folder} had left: writes done {done.written}, left {done.left}")


def sync(root: Path, uri: str | None = None) -> list[Synced]:
    """Do what is left in all run directories in ``root``, from the outer to the inner ones.

    Args:
        root: the folder of a run, of a pipeline, or of many.
        uri: the URI of the store; None takes that which each run names.

    Raises:
        BadInputError: a run is in use, its store cannot be used, or the secret of its URI was left out.
    """
    return [_sync_one(folder, uri) for folder in left_in(root)]


def left_in(root: Path) -> Iterator[Path]:
    """Yield the run directories in which writes wait; a run that others are under comes before them."""
    if not root.is_dir():
        raise BadInputError(f"sync must be given a folder of runs: {root} does not exist; give one")
    found = {path.parent for path in root.rglob(TRACKING_QUEUE) if path.is_file()}
    yield from sorted(found, key=lambda folder: (len(folder.parts), folder))


def _sync_one(folder: Path, uri: str | None) -> Synced:
    with held(folder, "the run directory"):
        said = read_json(folder / TRACKING, "tracking file") if is_file(folder / TRACKING) else {}
        place = uri or said.get("uri")
        if place is None:
            raise BadInputError(f"{folder} does not say where its record is: give --uri")
        if HIDDEN in place:
            raise BadInputError(
                f"the record of {folder} is at {place}, whose secret is not written down: give --uri, or "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD with a --uri without them"
            )
        return _sync(folder, Tracker.open(folder.parent, place, said.get("experiment", "qalof")))


def _sync(folder: Path, tracker: Tracker) -> Synced:
    """Do what waits; a run that its id is not known of is noted once it is made."""
    before = len(Queue(folder / TRACKING_QUEUE))
    tracker.adopt(folder)
    tracker.flush()
    left = len(Queue(folder / TRACKING_QUEUE))
    if is_file(folder / TRACKING):
        said = read_json(folder / TRACKING, "tracking file")
        if said.get("run") is None and left == 0:
            write_json(folder / TRACKING, {**said, "run": tracker.writer.id_of(said["key"])})
    return Synced(folder, before - left, left)
