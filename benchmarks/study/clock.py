"""How much of a call is left."""

from __future__ import annotations

import time


class OutOfTimeError(Exception):
    """The call's minutes are over; what is done is kept, and the next call goes on."""


class Clock:
    """Runs out at ``end``, in seconds since the epoch, which all processes of a machine share."""

    def __init__(self, end: float) -> None:
        self.end = end

    @classmethod
    def of(cls, minutes: float) -> Clock:
        """A clock of ``minutes`` from now on."""
        return cls(time.time() + 60 * minutes)

    @property
    def out(self) -> bool:
        """Whether the time is over."""
        return time.time() >= self.end

    def check(self) -> None:
        """Raise if the time is over."""
        if self.out:
            raise OutOfTimeError
