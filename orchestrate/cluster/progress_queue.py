"""A bulletin board between workers and the driver: workers post, the driver takes, nobody waits.

Ray Train's own report is a barrier over all workers, far too dear for every step; this is one small actor.
Posts are for showing and recording only: what must not be lost travels in checkpoints and results.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.actor import ActorHandle

from qalof.errors import DiskError

INTERVAL = 0.25
"""Seconds between two looks of the driver."""


class Board:
    """Posts in the order in which they came."""

    def __init__(self) -> None:
        self._posts: list[Any] = []

    def post(self, item: Any) -> None:
        """Add one."""
        self._posts.append(item)

    def take(self) -> list[Any]:
        """All posts since the last take."""
        taken, self._posts = self._posts, []
        return taken


@contextmanager
def watched_board(on_posts: Callable[[list[Any]], None]) -> Iterator[ActorHandle]:
    """A board whose posts go to ``on_posts``, in a thread, until the block is left; none is left over.

    Where the disk takes no more they wait and are tried again; at the end that is an error.

    Raises:
        DiskError: at the end, by ``on_posts``.
    """
    board = ray.remote(Board).options(num_cpus=0, max_restarts=-1).remote()
    stop = threading.Event()
    waiting: list[Any] = []

    def hand_over() -> None:
        waiting.extend(ray.get(board.take.remote()))
        on_posts(list(waiting))
        waiting.clear()

    def watch() -> None:
        while not stop.wait(INTERVAL):
            with suppress(DiskError):
                hand_over()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield board
    finally:
        stop.set()
        thread.join()
        try:
            hand_over()
        finally:
            ray.kill(board)
