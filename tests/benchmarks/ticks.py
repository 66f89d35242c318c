"""A clock for the studies under ``benchmarks/``, in place of :class:`study.clock.Clock`."""


class Ticks:
    """Runs out after so many looks at it."""

    def __init__(self, ticks: int) -> None:
        self.ticks = ticks

    @property
    def out(self) -> bool:
        """Whether the looks are used up."""
        self.ticks -= 1
        return self.ticks < 0

    def check(self) -> None:
        """Raise if they are; the exception is that of the study that is imported at the time."""
        from study.clock import OutOfTimeError

        if self.out:
            raise OutOfTimeError
