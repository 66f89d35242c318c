"""A bitmap that cannot be evaluated is a failed trial and not the end of a search.

An evaluation may raise (a quantizer that divides by zero, a model that breaks at 2 bits), or give a number that is not
finite.  Such a bitmap counts as evaluated, has its reason in record and result, is worse than all others to every
strategy, and is not tried again when the search resumes.  What speaks of the whole run and not of one bitmap ends the
search as it is: input that cannot be used, a file or a library that is missing, a full disk.

Memory is in between.  A bitmap for which it does not suffice has failed, but another machine, or the same one later,
may have more, so this stays out of the record and is tried again.  The same holds for an actor that was lost.

Where every bitmap fails the cause is hardly in the bitmaps, so a study stops after some failures in a row
(:class:`TooManyFailures`).  Only failures of the present run count, so a search that resumes goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from qalof.bitmap import Bitmap
from qalof.bitmap_names import short_name
from qalof.errors import BadInputError, DiskError, QalofError
from qalof.evaluation.result import Evaluation
from qalof.reading import first_line
from search.metric_limit import MetricLimit
from search.objective import Objective

MOST_IN_A_ROW = 10
"""How many failures in a row stop a search, unless it is told otherwise."""

NO_MEMORY = "out of memory"
"""How the reason of a failure begins that is not kept in a record."""

LOST = "its process was lost"
"""How the reason of another such failure begins."""

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


class TooManyFailures(QalofError):
    """So many bitmaps failed one after the other that the cause is hardly in them."""

    def __init__(self, failures: int, last: str, reason: str) -> None:
        super().__init__(
            f"a search must have a bitmap that can be evaluated: the last {failures} failed one after the other, "
            f"{last} because of {reason}; mend the cause and start the same search again, which goes on with other "
            "bitmaps (max_failures_in_a_row allows more; a search with another record tries these again)"
        )
        self.failures, self.last, self.reason = failures, last, reason

    def __reduce__(self) -> tuple[type[TooManyFailures], tuple[int, str, str]]:
        return type(self), (self.failures, self.last, self.reason)


def ends_search(error: Exception) -> bool:
    """Return whether an error would meet every bitmap alike: input that cannot be used, or what the machine lacks."""
    return isinstance(error, (BadInputError, DiskError, OSError, ImportError))


def attempted(evaluate: Callable[[], Evaluation]) -> Evaluation:
    """Return what ``evaluate`` returns, or a failed evaluation with the reason of the error that it raised.

    Raises:
        Exception: One that :func:`ends_search`, as it was raised.
    """
    try:
        return evaluate()
    except Exception as error:
        if ends_search(error):
            raise
        said = f"{type(error).__name__}: {first_line(error)}"
        no_memory = isinstance(error, MemoryError) or any(word in str(error).lower() for word in _OUT_OF_MEMORY)
        return Evaluation.failed(f"{NO_MEMORY} ({said})" if no_memory else said)


def checked(evaluation: Evaluation, objectives: Sequence[Objective], limits: Sequence[MetricLimit] = ()) -> Evaluation:
    """Return an evaluation that has every measured objective and limited metric: NaN where it failed, and failed where
    one is not finite.

    Raises:
        BadInputError: An evaluation that did not fail lacks the metric of an objective or a limit.
    """
    measured = [objective for objective in objectives if not objective.is_cost]
    names = list(dict.fromkeys([*(each.name for each in measured), *(each.name for each in limits)]))
    if evaluation.failure:
        return replace(evaluation, metrics=dict.fromkeys(names, math.nan))
    for objective in measured:
        objective.check(evaluation.metrics)
    for limit in limits:
        limit.check(evaluation.metrics)
    for name in names:
        value = float(evaluation[name])
        if not math.isfinite(value):
            return replace(evaluation, failure=f"{name} is {value}")
    return evaluation


def is_kept(evaluation: Evaluation) -> bool:
    """Return whether an evaluation belongs in a record: all do, except failures that may not happen again."""
    return not evaluation.failure.startswith((NO_MEMORY, LOST))


class FailureCount:
    """Counts the failures in a row of one run.

    Args:
        most: how many end the search; None lets any number pass.
    """

    def __init__(self, most: int | None) -> None:
        self._most, self._count = most, 0

    def add(self, bitmap: Bitmap, evaluation: Evaluation) -> None:
        """Count one evaluation.

        Raises:
            TooManyFailures: It is the last failure that is allowed.
        """
        self._count = self._count + 1 if evaluation.failure else 0
        if self._most is not None and self._count >= self._most:
            raise TooManyFailures(self._count, short_name(bitmap), evaluation.failure)
