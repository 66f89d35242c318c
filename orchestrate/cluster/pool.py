"""A pool of Ray actors over a list of independent items; a lost actor's item is done again by a new one.

Which actor gets which item is left to chance and speed, so whatever an actor computes must be a function of its
item alone.  Results come back in the items' order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Generic, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from orchestrate.cluster.admission import Request, told_what_is_missing
from qalof.errors import QalofError
from qalof.reading import first_line

Item = TypeVar("Item")
Result = TypeVar("Result")


class Pool(ABC, Generic[Item, Result]):
    """What does a list of items."""

    @abstractmethod
    def map(self, items: Sequence[Item], on_result: Callable[[int, Result], None] | None = None) -> list[Result]:
        """Results in the order of ``items``; ``on_result(index, result)`` is called as each arrives."""

    @abstractmethod
    def close(self) -> None:
        """Let what does the work go."""


class LocalPool(Pool[Item, Result]):
    """One object in this process, made by ``factory`` for the first item, in the place of actors."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self._factory = factory
        self._made: Any = None

    def map(self, items: Sequence[Item], on_result: Callable[[int, Result], None] | None = None) -> list[Result]:
        """As :meth:`ActorPool.map`, one after the other."""
        results: list[Result] = []
        for index, item in enumerate(items):
            self._made = self._made or self._factory()
            results.append(self._made.do(item))
            if on_result:
                on_result(index, results[-1])
        return results

    def close(self) -> None:
        """Forget the object."""
        self._made = None


class ActorPool(Pool[Item, Result]):
    """``size`` actors, each made by ``factory``, whose method ``do(item)`` is called once for each item.

    ``request``: what the actors take of the cluster, said while they wait for it; None says nothing.
    ``max_failures``: how often an item whose actor was lost is done again.
    """

    def __init__(
        self, factory: Callable[[], ActorHandle], size: int, request: Request | None = None, max_failures: int = 2
    ) -> None:
        self._factory, self._request, self._max_failures = factory, request, max_failures
        self.actors = [factory() for _ in range(size)]

    def map(self, items: Sequence[Item], on_result: Callable[[int, Result], None] | None = None) -> list[Result]:
        """Results in the order of ``items``; ``on_result(index, result)`` is called as each arrives.

        Raises:
            Exception: what ``do`` raised, as it was raised.
            QalofError: one item lost more than ``max_failures`` actors.
        """
        with told_what_is_missing(self._request) if self._request else nullcontext():
            return self._map(items, on_result)

    def _map(self, items: Sequence[Item], on_result: Callable[[int, Result], None] | None) -> list[Result]:
        waiting = list(range(len(items)))[::-1]
        attempts = [0] * len(items)
        results: dict[int, Result] = {}
        running: dict[Any, tuple[int, int]] = {}
        while waiting or running:
            busy = {place for _, place in running.values()}
            for place in range(len(self.actors)):
                if waiting and place not in busy:
                    index = waiting.pop()
                    attempts[index] += 1
                    running[self.actors[place].do.remote(items[index])] = (index, place)
            (done,), _ = ray.wait(list(running), num_returns=1)
            index, place = running.pop(done)
            try:
                results[index] = ray.get(done)
            except RayActorError as error:
                if attempts[index] > self._max_failures:
                    raise QalofError(
                        f"an actor was lost more than {self._max_failures} times over one item, last because "
                        f"{first_line(error)}; the same command goes on with what is missing, workers.max_failures "
                        "allows more"
                    ) from error
                self.actors[place] = self._factory()
                waiting.append(index)
            except RayTaskError as error:
                raise error.cause from None
            else:
                if on_result:
                    on_result(index, results[index])
        return [results[index] for index in range(len(items))]

    def close(self) -> None:
        """Let the actors go."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []
