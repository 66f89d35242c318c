"""The checkpoints of a training run while it runs: ``ray/train/step-000250`` and so on, each sealed.

They are written in place, whole or not at all, and only then reported to Ray.  (Ray's own copying from a temporary
folder was rejected: it fills the folder in place, and a kill leaves half of one.)  Ray Train also keeps a snapshot of
what was reported, rewritten in place at every report, so a kill can tear it; a torn one, or one of another version of
Ray, ends every later start.  So it serves for one fit only: before each fit, the folders themselves say where to go on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrate.runs.progress import say
from qalof.checkpoint.manifest import read_manifest
from qalof.errors import BadInputError, DiskError
from qalof.files import copy_folder, tidy, write_text
from qalof.reading import read_text

NAME = "train"
"""The name of the run in Ray's storage, which names its folder too."""
SNAPSHOT = "checkpoint_manager_snapshot.json"
ERROR = "error.txt"
"""What a worker's error is left in, for the workers that are started after it."""


@dataclass(frozen=True)
class Kept:
    """A whole checkpoint; a better one has a higher ``score``, which is None where none was asked for or it was not
    finite.
    """

    folder: Path
    step: int
    score: float | None


def step_folder(storage: Path, step: int) -> Path:
    """Say where the checkpoint after ``step`` steps goes."""
    return storage / f"step-{step:06d}"


def kept_checkpoints(storage: Path) -> list[Kept]:
    """Find all whole checkpoints of Ray's storage, by step; a damaged one is named and passed over."""
    return whole_ones(storage.glob("step-*"))


def whole_ones(folders: Iterable[Path]) -> list[Kept]:
    """Sort out the whole checkpoints, by step; a damaged one is named and passed over."""
    found = []
    for folder in folders:
        try:
            extra = read_manifest(folder)["extra"]
        except BadInputError as error:
            say(f"passed over: {error}")
            continue
        found.append(Kept(folder, int(extra["step"]), extra.get("score")))
    return sorted(found, key=lambda each: each.step)


def best_of(found: Sequence[Kept]) -> Kept | None:
    """Choose the highest score, and the later one of equals; None where nothing has a score."""
    scored = [(each.score, each.step, each) for each in found if each.score is not None]
    return max(scored, key=lambda entry: entry[:2])[2] if scored else None


def keep_best(found: Sequence[Kept], place: Path) -> Kept | None:
    """Put the best of these at ``place``, which may hold one of them; where none has a score, do nothing and return
    None.

    Raises:
        DiskError: the disk takes no more; ``place`` is as it was.
    """
    best = best_of(found)
    if best is not None and best.folder != place:
        tidy(place)
        copy_folder(best.folder, place)
    return best


def leave_error(storage: Path, text: str) -> None:
    """Leave a worker's error, as text; of several workers' errors the last one stays.  On a full disk none is left."""
    with suppress(DiskError):  # then the work is repeated, and its error is found again
        write_text(storage / ERROR, text)


def left_error(storage: Path) -> str | None:
    """Read what :func:`leave_error` left; None where it left nothing."""
    path = storage / ERROR
    return read_text(path, "record of an error") if path.is_file() else None


def prepare(storage: Path) -> Path | None:
    """Prepare the storage for a fit, whatever an earlier one left; nothing else may write there.

    Returns:
        The checkpoint to go on from; None for a new start.
    """
    storage.mkdir(parents=True, exist_ok=True)
    (storage / SNAPSHOT).unlink(missing_ok=True)
    (storage / ERROR).unlink(missing_ok=True)
    for left in (*storage.glob(".losses-*"), *storage.glob(".validation-*")):
        left.unlink()
    for hidden in {path.name.split(".")[1] for path in storage.glob(".step-*.*")}:
        tidy(storage / hidden)
    found = kept_checkpoints(storage)
    keep = {found[-1].folder if found else None, best.folder if (best := best_of(found)) else None}
    for folder in storage.glob("step-*"):
        if folder not in keep:
            shutil.rmtree(folder)
    return found[-1].folder if found else None
