"""What the beginning of a path may stand for, expanded in one place: ``~`` and ``~user``, and ``data:``.

``data:squad`` is ``squad`` in the folder of data sets that the environment variable ``QALOF_DATA`` names, so a shipped
config can name real data without the path of a machine.
"""

from __future__ import annotations

import os
from pathlib import Path

from qalof.errors import BadInputError

DATA, DATA_VARIABLE = "data:", "QALOF_DATA"


def is_short(text: str) -> bool:
    """Return whether a path begins with something that stands for a folder."""
    return text.startswith(("~", DATA))


def has_home() -> bool:
    """Return whether this user has a home folder, be it there or not."""
    return os.path.expanduser("~") != "~"  # noqa: PTH111 - pathlib raises a RuntimeError


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` with ``~``, ``~user`` or ``data:`` at its beginning replaced by the folder, and the rest
    unchanged.

    Raises:
        BadInputError: there is no such home folder, or no variable that names the folder of data sets.
    """
    text = os.fspath(path)
    if text.startswith(DATA):
        return _in_data(text)
    if not text.startswith("~"):
        return Path(text)
    whole = os.path.expanduser(text)  # noqa: PTH111 - pathlib raises a RuntimeError
    if whole == text or not os.environ.get("HOME", "unset"):
        raise BadInputError(
            f"a path that begins with ~ needs a home folder: there is none for {text!r}; set HOME, give the whole "
            f"path, or write ./{text} for a name that begins so"
        )
    return Path(whole)


def _in_data(text: str) -> Path:
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        raise BadInputError(
            f"a path that begins with {DATA} lies in the folder that the environment variable {DATA_VARIABLE} names: "
            f"it is not set, for {text!r}; export {DATA_VARIABLE}=FOLDER, or write ./{text} for a name that begins so"
        )
    return expanded(folder) / text.removeprefix(DATA)
