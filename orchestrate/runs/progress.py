"""Progress on standard error: bars in a terminal, elsewhere a line per tenth of the work.

Standard output stays free for results, so ``--json`` can be piped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

console = Console(stderr=True, highlight=False)


class Verbosity(StrEnum):
    """How much is told on standard error: ``quiet`` tells errors alone, ``verbose`` each unit of work and each file."""

    QUIET = "quiet"
    NORMAL = "normal"
    VERBOSE = "verbose"


_told = Verbosity.NORMAL


@contextmanager
def telling(verbosity: Verbosity) -> Iterator[None]:
    """Within the block, tell so much on standard error, warnings of the house included."""
    global _told
    root = logging.getLogger()
    before = _told, console.quiet, root.level
    _told, console.quiet = verbosity, verbosity is Verbosity.QUIET
    if verbosity is Verbosity.QUIET:
        root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        _told, console.quiet = before[:2]
        root.setLevel(before[2])


class _NotedProgress(Progress):
    """A bar with its note on the lines below: beside it in 80 columns, either would be cut."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the bar, and then the note."""
        for task in self.tasks:
            yield self.make_tasks_table([task])
            if task.fields["note"]:
                yield Padding(Text(task.fields["note"]), (0, 0, 0, 2))


class Reporter:
    """Shows how far one piece of work is."""

    def __init__(self, progress: Progress | None, description: str, total: int) -> None:
        self._progress, self._description, self._total = progress, description, total
        self._task = progress.add_task(description, total=total, note="") if progress else None
        self._told, self._done, self._started = -1, 0, time.monotonic()

    def advance(self, note: str = "") -> None:
        """Show that one more unit is done; ``note`` as for :meth:`update`."""
        self.update(self._done + 1, note)

    def update(self, done: int, note: str = "") -> None:
        """Show that ``done`` of the total is done; ``note`` is a short word on how it goes."""
        self._done = done
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, note=note)
            if _told is Verbosity.VERBOSE and note:
                self._progress.console.print(f"{self._description}: {done}/{self._total}  {note}")
            return
        tenth = 10 * done // max(1, self._total)
        if tenth > self._told or _told is Verbosity.VERBOSE:
            self._told = tenth
            seconds = time.monotonic() - self._started
            console.print(f"{self._description}: {done}/{self._total} after {seconds:.0f} s  {note}".rstrip())


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Reporter]:
    """Show a bar (or lines) for ``total`` units of work."""
    if not console.is_terminal:
        yield Reporter(None, description, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with _NotedProgress(*columns, console=console) as progress:
        yield Reporter(progress, description, total)


def say(line: str) -> None:
    """Write one line to standard error."""
    console.print(line)


def detail(line: str) -> None:
    """Write one line to standard error where every detail is wanted."""
    if _told is Verbosity.VERBOSE:
        console.print(line, markup=False)
