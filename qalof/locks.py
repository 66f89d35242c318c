"""Locks between processes: only one process writes at a time, and the lock says which one.

A lock is the system's own, on a hidden file next to what it guards (``.NAME.lock``), so it ends with the process that
holds it, however that ends.  The file stays, since removing it would split those who wait for it; it says which process
took it last, which matters only while it is locked.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from qalof.errors import BadInputError
from qalof.writing import check_writable, disk_errors


@contextmanager
def held(target: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes away from ``target`` for the length of the block.

    Args:
        target: a file or folder, which need not be there yet; its parent is made.
        what: says in messages what ``target`` is.
        wait: for the other process to end, however long it takes.

    Raises:
        BadInputError: another process holds it, and it is not to be waited for; or its place cannot be written.
    """
    check_writable(target)
    with disk_errors(target):
        path = lock_of(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        with disk_errors(target):
            lock.acquire()
    except Timeout:
        raise BadInputError(
            f"{what} must be free: {target} is in use by {_holder(path)}; wait for its end or name another place"
        ) from None
    try:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}), encoding="utf-8")
        yield
    finally:
        lock.release()


def lock_of(target: Path) -> Path:
    """Return the file whose lock guards ``target``, next to it; a link is guarded where it leads."""
    real = Path(os.path.realpath(target))  # Path.resolve raises an error of its own kind over a loop of links
    return real.with_name(f".{real.name}.lock")


def _holder(path: Path) -> str:
    """Say who holds a lock, as its file says; it may be in the middle of being written."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return f"process {said['pid']} on {said['host']} since {said['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
