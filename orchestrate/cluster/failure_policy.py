"""What to do about work that failed: begin it again, have it done elsewhere, or give up.

Every command asks the same policy, from plain values, so ``workers.max_failures`` means the same in all of them. What
counts is the *unit of work*: one item of a pool, one trial of a search or a sweep, one range test, or one training.  A
unit whose process was lost (killed, or gone with its node) is begun again up to ``max_failures`` times, however many
units there are.  An error that the work itself raised would come back, so it ends the command at once, and reaches the
user as it was raised.

Whoever runs the work says which kind of failure it met.  Pools, the searchers of Ray Tune and the loop around Ray Train
ask :meth:`decide`.  Inside Ray Train and a Ray task it is Ray that begins lost work again, and it is given
``max_failures`` as its limit; but Train would also repeat work that raised an error, and to Tune such work was lost.
So in Tune an error of the work is returned as a result, and in Train it is left next to the checkpoints, where the
workers that are started next find it and stop (:mod:`orchestrate.cluster.carried_error`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from qalof.errors import QalofError

NODE_NOTICED = 20.0
"""How many seconds it takes until a cluster has noticed that a node is gone; Ray's health checks take 15 unless told
otherwise."""


class Failure(Enum):
    """What kind of failure a unit of work met."""

    LOST = "lost"
    """The process that did the work is gone, or cannot be reached any more."""
    CUT_OFF = "cut off"
    """The process that led the work is gone; the work is kept up to its last checkpoint."""
    RAISED = "raised"
    """The work itself raised an error."""
    UNPLACEABLE = "unplaceable"
    """The cluster cannot run the work: there is no room for it, or its workers cannot be started."""


class Decision(Enum):
    """What to do next about a unit of work."""

    RETRY = "retry"
    """Begin it again where it is, from its last checkpoint."""
    REDO_ELSEWHERE = "redo elsewhere"
    """Begin it again in a new process, and have no more to do with the one that it was in."""
    GIVE_UP = "give up"
    """End the command, with the cause as its error."""


@dataclass(frozen=True)
class FailurePolicy:
    """How often each unit of work is begun again.

    Raises:
        ValueError: ``max_failures`` is negative.
    """

    max_failures: int = 2
    """How often one unit may be begun again because its process was lost."""

    def __post_init__(self) -> None:
        if self.max_failures < 0:
            raise ValueError(f"max_failures must be at least 0: got {self.max_failures}")

    def decide(self, failure: Failure, failures: int) -> Decision:
        """Decide what to do next.

        Args:
            failure: the kind of the failure that was just met.
            failures: how many failures the unit has met by now, this one included.

        Raises:
            ValueError: ``failures`` is below 1.
        """
        if failures < 1:
            raise ValueError(f"failures counts the one that was just met, so it must be at least 1: got {failures}")
        if failure in (Failure.RAISED, Failure.UNPLACEABLE) or failures > self.max_failures:
            return Decision.GIVE_UP
        return Decision.REDO_ELSEWHERE if failure is Failure.LOST else Decision.RETRY

    def pause(self, failures: int, since: float) -> float:
        """Return how many seconds to wait before lost work begins again, where the cluster chooses the node.

        It knows only after some time that a node is gone, and begins work there again until then.  So work that was
        lost once begins at once, since mostly a process is gone and no node; work that was lost again waits until the
        cluster must have noticed.

        Args:
            failures: how many failures the unit has met by now.
            since: seconds since a unit was last lost for the first time.
        """
        return 0.0 if failures < 2 else max(0.0, NODE_NOTICED - since)

    def exhausted(self, what: str, reason: str) -> QalofError:
        """Word the error of a unit that was begun again too often.

        Args:
            what: what was lost, such as "an actor" or "the training controller".
            reason: the last cause, in one line.
        """
        cause = reason.rstrip(".")
        return QalofError(
            f"{what} was lost more than {self.max_failures} times over one piece of work, last because {cause}; "
            "the same command goes on with what is missing, workers.max_failures allows more"
        )
