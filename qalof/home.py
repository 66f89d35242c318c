"""Home folders: ``~`` and ``~user`` at the beginning of a path, expanded in one place."""

from __future__ import annotations

import os
from pathlib import Path

from qalof.errors import BadInputError


def expanded(path: str | os.PathLike[str]) -> Path:
    """``path`` with ``~`` or ``~user`` at its beginning replaced by the home folder; nothing else is changed.

    Raises:
        BadInputError: there is no such home folder.
    """
    text = os.fspath(path)
    if not text.startswith("~"):
        return Path(text)
    whole = os.path.expanduser(text)  # noqa: PTH111 - pathlib raises a RuntimeError
    if whole == text or not os.environ.get("HOME", "unset"):
        raise BadInputError(
            f"a path that begins with ~ needs a home folder: there is none for {text!r}; set HOME, give the whole "
            f"path, or write ./{text} for a name that begins so"
        )
    return Path(whole)
