"""Errors as text, by which an error of a trial or a training worker reaches the driver as it was raised.

Ray hands the driver the error of a task, but that of a trial or a training worker only after it has repeated the work
(:mod:`orchestrate.cluster.failure_policy`).  As text an error passes through a result or a file, where Ray does not see
it.  The text is a pickle, which only the processes of one run write and read.
"""

from __future__ import annotations

import base64
import pickle

from qalof.errors import QalofError
from qalof.reading import first_line


def error_as_text(error: Exception) -> str:
    """Write ``error`` as ASCII text; one that cannot be pickled becomes a :class:`QalofError` of the same message."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)  # some classes can be written but not read: their __init__ wants other arguments
    except Exception:
        data = pickle.dumps(QalofError(f"{type(error).__name__}: {first_line(error)}"))
    return base64.b64encode(data).decode("ascii")


def error_of_text(text: str) -> Exception:
    """Read the text that :func:`error_as_text` wrote."""
    error = pickle.loads(base64.b64decode(text))
    assert isinstance(error, Exception)
    return error
