"""Progress on its way from workers to the driver: workers put items in, the driver takes what is there, and nobody
waits.

Ray Train's own report is a barrier over all workers, far too expensive for every step; this is ``ray.util.queue``, one
small actor.  What it holds is for showing and recording only: what must not be lost travels in checkpoints and results.
So where the actor is lost, a new, empty one is started, what it held is lost with it, and neither a worker nor the
driver fails because of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ray.exceptions import RayActorError
from ray.util.queue import Queue

from qalof.errors import DiskError

INTERVAL = 0.25
"""How many seconds lie between two looks of the driver."""


def put(queue: Queue, item: Any) -> None:
    """Add one item, unless the queue is out of reach."""
    with suppress(RayActorError):
        queue.put_nowait(item)


def take(queue: Queue) -> list[Any]:
    """Remove and return all items, in the order in which they came; there are none where the queue is out of reach."""
    items: list[Any] = []
    with suppress(RayActorError):
        items = queue.get_nowait_batch(queue.size())
    return items


@contextmanager
def watched_queue(on_items: Callable[[list[Any]], None]) -> Iterator[Queue]:
    """Open a queue whose items go to ``on_items``, in a thread, until the block is left; no item is left over.

    Where the disk takes no more, items wait and are tried again; at the end that is an error.

    Raises:
        DiskError: ``on_items`` raised it for the last items.
    """
    queue = Queue(actor_options={"num_cpus": 0, "max_restarts": -1})
    stop = threading.Event()
    waiting: list[Any] = []

    def hand_over() -> None:
        waiting.extend(take(queue))
        on_items(list(waiting))
        waiting.clear()

    def watch() -> None:
        while not stop.wait(INTERVAL):
            with suppress(DiskError):
                hand_over()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield queue
    finally:
        stop.set()
        thread.join()
        try:
            hand_over()
        finally:
            queue.shutdown(force=True)
