"""A pool of Ray actors over a list of independent items; a lost actor's item is done again by a new one.

Which actor gets which item is left to chance and speed, so whatever an actor computes must be a function of its
item alone.  Results come back in the items' order.  What a failure leads to is decided by
:class:`~orchestrate.cluster.failure_policy.FailurePolicy`.

An item goes to an actor that runs, and never to one that still waits for its place.  So where a node is lost for good
the actors that are left do all the work; its own would wait for a new node as long as the pool lives.

Ray's own pieces were rejected.  ``ray.util.ActorPool`` gives an item to an actor that is gone, and raises the error
that this returns.  ``max_restarts`` with ``max_task_retries`` does begin lost calls again, but it counts restarts per
actor, so one item that kills its process would spend what all others are allowed; and it waits for the lost node's
resources, where this pool asks for any that are free.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from orchestrate.cluster.admission import Request, told_what_is_missing
from orchestrate.cluster.failure_policy import Decision, Failure, FailurePolicy
from qalof.reading import first_line

if TYPE_CHECKING:
    from ray.actor import ActorHandle

Item = TypeVar("Item")
Result = TypeVar("Result")


class Pool(ABC, Generic[Item, Result]):
    """An object that does a list of items."""

    @abstractmethod
    def map(self, items: Sequence[Item], on_result: Callable[[int, Result], None] | None = None) -> list[Result]:
        """Return the results in the order of ``items``; ``on_result(index, result)`` is called as each arrives."""

    @abstractmethod
    def close(self) -> None:
        """Let the worker or workers go."""


class Made:
    """An actor's inside: the object that does the work, made by ``factory`` for the first item.

    It is not made together with the actor, because Ray reports an error of an actor's making as a lost actor.
    """

    def __init__(self, factory: Callable[[], Any]) -> None:
        self._factory = factory
        self._made: Any = None

    def do(self, item: Any) -> Any:
        """Do one item."""
        if self._made is None:
            self._made = self._factory()
        return self._made.do(item)


class LocalPool(Pool[Item, Result]):
    """One object in this process, made by ``factory`` for the first item, in the place of actors."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self._factory = factory
        self._made = Made(factory)

    def map(self, items: Sequence[Item], on_result: Callable[[int, Result], None] | None = None) -> list[Result]:
        """Do what :meth:`ActorPool.map` does, one item after the other."""
        results: list[Result] = []
        for index, item in enumerate(items):
            results.append(self._made.do(item))
            if on_result:
                on_result(index, results[-1])
        return results

    def close(self) -> None:
        """Forget the object."""
        self._made = Made(self._factory)


class ActorPool(Pool[Item, Result]):
    """``size`` actors, each made by ``factory``, whose method ``do(item)`` is called once for each item.

    Args:
        factory: begins one actor.
        size: how many actors there are.
        request: what the actors take of the cluster, said while they wait for it; None says nothing.
        policy: how often an item whose actor was lost is done again.
    """

    def __init__(
        self,
        factory: Callable[[], ActorHandle],
        size: int,
        request: Request | None = None,
        policy: FailurePolicy | None = None,
    ) -> None:
        self._factory, self._request, self._policy = factory, request, policy or FailurePolicy()
        self._actors: list[ActorHandle | None] = [None] * size
        self._starting: dict[Any, int] = {}
        self._lost_starting = [0] * size
        for place in range(size):
            self._start(place)

    def map(self, items: Sequence[Item], on_result: Callable[[int, Result], None] | None = None) -> list[Result]:
        """Return the results in the order of ``items``; ``on_result(index, result)`` is called as each arrives.

        However it ends before all items are done, no item goes on: the actors that are at work are ended, since a call
        that has begun in an actor cannot be canceled otherwise.

        Raises:
            Exception: what ``do`` raised, as it was raised, or ``on_result``.
            QalofError: one item lost more actors than the policy allows.
        """
        running: dict[Any, tuple[int, int]] = {}
        with told_what_is_missing(self._request) if self._request else nullcontext():
            try:
                return self._map(items, on_result, running)
            except BaseException:
                for _, place in running.values():
                    self._end(place)
                raise

    def _map(
        self,
        items: Sequence[Item],
        on_result: Callable[[int, Result], None] | None,
        running: dict[Any, tuple[int, int]],
    ) -> list[Result]:
        """Fill ``running`` (call -> index of its item, place of its actor) and empty it, until nothing is left."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        waiting = list(range(len(items)))[::-1]
        failures = [0] * len(items)
        results: dict[int, Result] = {}
        while waiting or running:
            busy = {place for _, place in running.values()}
            for place, actor in enumerate(self._actors):
                if waiting and place not in busy:
                    if actor is None:
                        self._start(place)
                    elif place not in self._starting.values():
                        index = waiting.pop()
                        running[actor.do.remote(items[index])] = (index, place)
            (done,), _ = ray.wait([*running, *self._starting], num_returns=1)
            if done in self._starting:
                self._started(done)
                continue
            index, place = running.pop(done)
            try:
                results[index] = ray.get(done)
            except RayActorError as error:
                failures[index] += 1
                self._end(place)
                if self._policy.decide(Failure.LOST, failures[index]) is Decision.GIVE_UP:
                    raise self._policy.exhausted("an actor", first_line(error)) from error
                waiting.append(index)
            except RayTaskError as error:
                raise error.cause from None
            else:
                if on_result:
                    on_result(index, results[index])
        return [results[index] for index in range(len(items))]

    def _start(self, place: int) -> None:
        """Begin an actor at ``place``, which gets items once it runs."""
        actor = self._actors[place] = self._factory()
        self._starting[actor.__ray_ready__.remote()] = place

    def _started(self, call: Any) -> None:
        """Take note that an actor runs, or was lost before it did."""
        import ray
        from ray.exceptions import RayActorError

        place = self._starting.pop(call)
        try:
            ray.get(call)
        except RayActorError as error:
            self._end(place)
            self._lost_starting[place] += 1
            if self._policy.decide(Failure.LOST, self._lost_starting[place]) is Decision.GIVE_UP:
                raise self._policy.exhausted("an actor", first_line(error)) from error
        else:
            self._lost_starting[place] = 0

    def _end(self, place: int) -> None:
        """End the actor at ``place``; one that is only out of reach would otherwise go on with its item."""
        import ray

        actor, self._actors[place] = self._actors[place], None
        self._starting = {call: at for call, at in self._starting.items() if at != place}
        if actor is not None:
            ray.kill(actor)

    def close(self) -> None:
        """Let the actors go."""
        for place in range(len(self._actors)):
            self._end(place)
