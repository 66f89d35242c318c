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
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

console = Console(stderr=True, highlight=False)


class Verbosity(StrEnum):
    """How much goes to standard error: ``quiet`` tells errors alone, ``verbose`` each unit of work and each file."""

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


class _RateColumn(ProgressColumn):
    """How fast units are done."""

    def render(self, task: Task) -> Text:
        """Write the rate, and nothing while it is not known."""
        speed = task.finished_speed or task.speed
        return Text(rate(speed) if speed else "")


def rate(speed: float) -> str:
    """Write units per second, or seconds per unit where that is more than one."""
    return f"{speed:.3g}/s" if speed >= 1 else f"{1 / speed:.3g} s each"


class Reporter:
    """Shows how far one piece of work is."""

    def __init__(self, progress: Progress | None, description: str, total: int) -> None:
        self._progress, self._description, self._total = progress, description, total
        self._task = progress.add_task(description, total=total, note="") if progress else None
        self._told, self._done, self._started = -1, 0, time.monotonic()
        self._first: tuple[int, float] | None = None

    def advance(self, note: str = "") -> None:
        """Show that one more unit is done; ``note`` as for :meth:`update`."""
        self.update(self._done + 1, note)

    def update(self, done: int, note: str = "") -> None:
        """Show that ``done`` of the total is done; ``note`` is a short word on how it goes."""
        self._done = done
        self._first = self._first or (done, time.monotonic())
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, note=note)
            if _told is Verbosity.VERBOSE and note:
                self._progress.console.print(f"{self._description}: {done}/{self._total}  {note}")
            return
        tenth = 10 * done // max(1, self._total)
        if tenth > self._told or _told is Verbosity.VERBOSE:
            self._told = tenth
            seconds = time.monotonic() - self._started
            speed = f"after {seconds:.0f} s{self._speed(done)}"
            console.print(f"{self._description}: {done}/{self._total} {speed}  {note}".rstrip())

    def _speed(self, done: int) -> str:
        """Say the rate and the time that is left; what was done before the first report is not counted."""
        begun, at = self._first or (done, 0.0)
        took = time.monotonic() - at
        if done <= begun or took <= 0:
            return ""
        speed = (done - begun) / took
        left = f", {(self._total - done) / speed:.0f} s left" if done < self._total else ""
        return f", {rate(speed)}{left}"


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Reporter]:
    """Show a bar (or lines) for ``total`` units of work."""
    if not console.is_terminal:
        yield Reporter(None, description, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        _RateColumn(),
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
