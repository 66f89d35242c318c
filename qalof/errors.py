"""The errors that a user can correct.

Every message states the law, the value that broke it and the way out, in one line, because the command
line prints nothing but that line and leaves with the error's exit code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QalofError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is what a command ends with."""

    exit_code = 1


class BadInputError(QalofError, ValueError):
    """A config, file, bitmap or budget that cannot be used as given."""

    exit_code = 2


class EmbeddingError(BadInputError):
    """An input embedding that cannot have a width; whoever gives it one knows how to do without."""


class NonFiniteLossError(QalofError, ArithmeticError):
    """The loss became NaN or infinite; names the step and the bitmap.  The last checkpoint stays."""

    def __init__(self, step: int, bitmap: str, value: float) -> None:
        super().__init__(
            f"loss must be finite: got {value} at step {step} with bitmap {bitmap}; "
            "the last good checkpoint is kept, lower the learning rate or raise the lowest width and resume"
        )
        self.step, self.bitmap, self.value = step, bitmap, value

    def __reduce__(self) -> tuple[type[NonFiniteLossError], tuple[int, str, float]]:
        return type(self), (self.step, self.bitmap, self.value)


class DiskError(QalofError):
    """The disk takes no more.  What was there before is as it was."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"the disk must have room for {path}: {reason}; what was written before is whole, make room and "
            "start the same command again"
        )
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type[DiskError], tuple[str, str]]:
        return type(self), (self.path, self.reason)


def nearest_hint(wrong: str, known: Iterable[str], limit: int = 8) -> str:
    """Return ``did you mean 'x'?`` for the closest known name, or the list of what exists."""
    names = sorted(known)
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    shown = ", ".join(names[:limit])
    return f"known: {shown}{', ...' if len(names) > limit else ''}"
