"""Errors as text, by which an error of a trial or a training worker reaches the driver as it was raised.

Ray hands the driver the error of a task, but that of a trial or a training worker only after it has repeated the work
(:mod:`orchestrate.cluster.failure_policy`).  As text an error passes through a result or a file, where Ray does not see
it.  The text is JSON: what the error says, and a pickle of it.  A file may have been written by somebody else, so
reading makes nothing but exceptions, of modules that are ours or imported already; another error is known by what it
says.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import pickle
import sys
from typing import Any

from qalof.errors import QalofError
from qalof.reading import first_line

OURS = ("qalof", "search", "orchestrate")


class _Exceptions(pickle.Unpickler):
    """Reads exceptions made of plain values, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return an exception's class.

        Raises:
            UnpicklingError: it is anything else.
        """
        if module.partition(".")[0] in OURS:
            importlib.import_module(module)
        found = getattr(sys.modules.get(module), name, None)
        if isinstance(found, type) and issubclass(found, Exception):
            return found
        raise pickle.UnpicklingError(f"{module}.{name} is no exception that is known here")


def error_as_text(error: Exception) -> str:
    """Write ``error`` as ASCII text; one that cannot be pickled becomes a :class:`QalofError` of the same message."""
    said = f"{type(error).__name__}: {first_line(error)}"
    try:
        data = pickle.dumps(error)
        _read(data)  # some classes can be written but not read: their __init__ wants other arguments
    except Exception:
        data = b""
    return json.dumps({"said": said, "error": base64.b64encode(data).decode("ascii")})


def error_of_text(text: str) -> Exception:
    """Read the text that :func:`error_as_text` wrote."""
    carried = json.loads(text)
    try:
        return _read(base64.b64decode(carried["error"]))
    except Exception:
        return QalofError(str(carried["said"]))


def _read(data: bytes) -> Exception:
    error = _Exceptions(io.BytesIO(data)).load()
    if not isinstance(error, Exception):
        raise pickle.UnpicklingError("this is no error")
    return error
