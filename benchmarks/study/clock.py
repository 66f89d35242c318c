"""How much of a call is left."""

from __future__ import annotations

import time


class OutOfTimeError(BaseException):
    """The call's minutes are over; what is done is kept, and the next call goes on.

    It is no ``Exception``, as Ctrl-C is none: a search must not take it for a bitmap that fails.
    """


class Clock:
    """``minutes`` from its making."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes

    @property
    def out(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self.end

    def check(self) -> None:
        """Raise if the time is over."""
        if self.out:
            raise OutOfTimeError
