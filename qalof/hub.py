"""The model hub: asked once whether it is there, rather than retried for half a minute a file.

Where it is out of reach, its clients are switched to their offline mode for this process: what is in the local
cache still loads, and what is not fails at once.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub.constants
from huggingface_hub.utils import logging as hub_logging

from qalof.errors import BadInputError
from qalof.reading import library_errors

TIMEOUT = 5.0
"""Seconds to wait for a connection."""


@cache
def check_hub() -> bool:
    """Whether the hub can be reached; if not, every client of this process goes offline from now on.

    Behind a proxy nobody can tell without asking, so that the clients are left to try.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    url = urlsplit(huggingface_hub.constants.ENDPOINT)
    try:
        with socket.create_connection((url.hostname or "", url.port or 443), TIMEOUT):
            return True
    except OSError:
        _go_offline()
        return False


def _go_offline() -> None:
    import datasets

    hub_logging.set_verbosity_error()
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = True


def load_rows(source: str, split: str | None, subset: str | None = None) -> Any:
    """The rows of a hub data set's split; of None, all splits by name.

    Raises:
        BadInputError: it cannot be had.
    """
    import datasets

    check_hub()
    named = f"data set {source!r}" if subset is None else f"data set {source!r}, {subset}"
    with library_errors(f"{named}, split {split}", "give a local file or folder, or bring the hub in reach"):
        rows = datasets.load_dataset(source, subset, split=split)
    if not len(rows):
        raise BadInputError(f"a split must hold at least one row: {named}, split {split} holds none")
    return rows
