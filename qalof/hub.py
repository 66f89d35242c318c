"""The model hub: asked once whether it is there, rather than retried for half a minute per file.

Where it is out of reach, every request of this process is refused before it is sent, as in the hub's own offline mode:
what is in the local cache still loads, and what is not fails at once.  The refusal is an HTTP client that the hub's
library is given by its public :func:`huggingface_hub.set_client_factory`, through which transformers, peft and
datasets ask.  The other switches do less: ``HF_HUB_OFFLINE`` is read when the library is imported, before anybody
knows whether the hub will be needed, and ``local_files_only`` does not reach every request (with it, opening a model
and a data set still took half a minute each).
"""

from __future__ import annotations

import os
import socket
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub.constants
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import logging as hub_logging

from qalof.errors import BadInputError
from qalof.reading import library_errors

TIMEOUT = 5.0
"""How many seconds to wait for a connection."""


@cache
def check_hub() -> bool:
    """Return whether the hub can be reached; if not, every request of this process to it is refused from now on.

    Behind a proxy nobody can tell without asking, so the clients are left to try.
    """
    if huggingface_hub.is_offline_mode():
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    url = urlsplit(huggingface_hub.constants.ENDPOINT)
    try:
        with socket.create_connection((url.hostname or "", url.port or (80 if url.scheme == "http" else 443)), TIMEOUT):
            return True
    except OSError:
        _refuse_requests()
        return False


def _refuse_requests() -> None:
    hub_logging.set_verbosity_error()
    client = type(huggingface_hub.get_session())  # httpx's, under whichever name the hub's library has it
    huggingface_hub.set_client_factory(lambda: client(event_hooks={"request": [_refuse]}))


def _refuse(request: Any) -> None:
    raise OfflineModeIsEnabled(f"the hub is out of reach: {request.url}")


def load_rows(source: str, split: str | None, subset: str | None = None) -> Any:
    """Return the rows of a hub data set's split; None returns all splits by name.

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
