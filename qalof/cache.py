"""The cache folder of this user holds what can be made or fetched again, for all runs of the machine.

It holds ``features`` (tokenized examples), ``frozen`` (weights that processes share), ``models`` (pretrained weights
that ``python -m qalof.real_model`` fetched) and ``converted`` (GGUF files as plain models).  Deleting any of them is
safe while nothing runs.
"""

from __future__ import annotations

import logging
import os
import tempfile
from functools import cache
from pathlib import Path

import platformdirs

from qalof.errors import BadInputError, QalofError
from qalof.home import expanded
from qalof.reading import is_folder
from qalof.writing import check_folder

_log = logging.getLogger(__name__)

CACHED = "cache:"
"""``cache:NAME`` as a model's source is the model ``NAME`` in the cache folder, on whatever machine."""


def cache_dir() -> Path:
    """Return ``$QALOF_CACHE``, or ``qalof`` in the user's cache folder; it is in the temporary folder where that cannot
    be written.

    Raises:
        BadInputError: ``QALOF_CACHE`` needs a home folder that is not there, or no folder can be written.
    """
    given = os.environ.get("QALOF_CACHE")
    return expanded(given) if given else _own(_of_user())


def models_dir() -> Path:
    """Say where fetched models lie, one folder per model; a cache that cannot be written can still be read."""
    return (_readable() or cache_dir()) / "models"


def _readable() -> Path | None:
    """Return the user's cache folder that holds models, if it is there."""
    own = Path(_of_user())
    return own if not os.environ.get("QALOF_CACHE") and is_folder(own / "models") else None


def _of_user() -> str:
    """Return the user's cache folder, which begins with ``~`` where this user has no home folder."""
    try:
        return str(platformdirs.user_cache_path("qalof"))
    except RuntimeError:
        return "~/.cache/qalof"


@cache
def _own(folder: str) -> Path:
    """Return ``folder`` if it can be written; otherwise one of this user in the temporary folder, which is said once.

    Raises:
        BadInputError: neither can be written, or another user has made the second.
    """
    try:
        check_folder(expanded(folder), "the cache folder")
        return expanded(folder)
    except QalofError as error:
        user = os.getuid() if hasattr(os, "getuid") else 0
        instead = Path(tempfile.gettempdir()) / f"qalof-{user}"
        try:
            check_folder(instead, "it")
            instead.mkdir(mode=0o700, exist_ok=True)
            if instead.is_symlink() or instead.stat().st_uid != user:
                raise BadInputError(f"{instead} is another user's")
        except (OSError, QalofError) as second:
            raise BadInputError(
                f"a folder for the cache must be there ({error}) or be made ({second}); set QALOF_CACHE to a folder "
                "that can be written"
            ) from None
        _log.warning("%s, so the cache is in %s; QALOF_CACHE=FOLDER names another", error, instead)
        return instead
