"""The cache folder of this user: what can be made or fetched again, shared by all runs of the machine.

It holds ``features`` (tokenized examples), ``frozen`` (weights that processes share), ``models`` (pretrained weights
that ``python -m qalof.real_model`` fetched) and ``converted`` (GGUF files as plain models).  Deleting any of them is
safe while nothing runs.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from qalof.home import expanded

CACHED = "cache:"
"""``cache:NAME`` as a model's source is the model ``NAME`` in the cache folder, on whatever machine."""


def cache_dir() -> Path:
    """``$QALOF_CACHE``, or ``qalof`` in the user's cache folder.

    Raises:
        BadInputError: neither is set, and this user has no home folder.
    """
    root = os.environ.get("QALOF_CACHE")
    return expanded(root or platformdirs.user_cache_path("qalof"))


def models_dir() -> Path:
    """Where fetched models lie, one folder per model."""
    return cache_dir() / "models"
