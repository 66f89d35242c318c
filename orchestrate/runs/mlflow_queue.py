"""The writes that MLflow has not been told yet, in order, on disk.

A write is a JSON object, so it outlives the process that made it.  The file has a line per write, and after those that
are done a line ``{"done": N}``, the number of writes from the file's beginning on; once nothing is left, the file is
removed.  A process that is killed between a write and its line does it once more, which changes nothing
(:mod:`orchestrate.runs.mlflow_writes`).
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qalof.files import append_lines, read_whole_lines
from qalof.reading import parse_json
from qalof.writing import disk_errors

Write = dict[str, Any]


class Queue:
    """What waits.  Several threads may use it.

    Args:
        path: the file; None keeps the writes in memory alone.

    Raises:
        BadInputError: a line of the file is damaged.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._lock = threading.Lock()
        if path is not None and path.is_file():
            append_lines(path, [])  # cuts off what a kill has torn
        found = [] if path is None else [parse_json(line.decode(), f"queue {path}") for line in read_whole_lines(path)]
        writes = [line for line in found if "done" not in line]
        self._done = max((line["done"] for line in found if "done" in line), default=0)
        self._waiting: deque[Write] = deque(writes[self._done :])
        self.inherited = len(self._waiting)
        """How many of the first writes an earlier process has left, which may have done the very first of them."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, writes: Sequence[Write]) -> None:
        """Add writes at the end.

        Raises:
            DiskError: the disk takes no more.
        """
        if not writes:
            return
        with self._lock:
            self._waiting.extend(writes)
            self._note([json.dumps(write) for write in writes])

    def first(self) -> Write | None:
        """Return the write whose turn it is; None where nothing waits."""
        return self._waiting[0] if self._waiting else None

    def drop_first(self) -> None:
        """Take the first write as done."""
        with self._lock:
            self._waiting.popleft()
            self._done += 1
            self.inherited = max(0, self.inherited - 1)
            if self._waiting:
                self._note([json.dumps({"done": self._done})])
            elif self.path is not None:
                self._done = 0
                with disk_errors(self.path):
                    self.path.unlink(missing_ok=True)

    def _note(self, lines: Sequence[str]) -> None:
        """Add lines, without waiting for the disk: a kill of the process loses none of them."""
        if self.path is not None:
            with disk_errors(self.path), self.path.open("ab") as file:
                file.write("".join(f"{line}\n" for line in lines).encode())
