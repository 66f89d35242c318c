"""How settings and metrics are made fit for MLflow: addresses, names, lengths, and what is no number.

These are pure functions of plain values, and :mod:`orchestrate.runs.mlflow_tracker` only sends what they return. MLflow
refuses a whole request for one bad name; cleaning beforehand loses a character where a refusal would lose the run.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from orchestrate.config.redaction import HIDDEN, redact
from qalof.errors import BadInputError

#: MLflow's limits: characters of a name, a parameter and a tag.
MAX_NAME, MAX_PARAM, MAX_TAG = 250, 6000, 8000

_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")


def check_uri(uri: str) -> str:
    """Return the URI unchanged.

    Raises:
        BadInputError: its kind is not supported (a folder's is not), or it lacks the secret that it had.
    """
    if HIDDEN in uri:
        raise BadInputError(
            f"the tracking URI must be whole: got {redact(uri)!r}, whose secret was left out when it was written down; "
            "give it anew by tracking.uri=..., or in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    scheme = urllib.parse.urlsplit(uri).scheme.split("+")[0]
    if scheme not in _SCHEMES:
        raise BadInputError(
            f"the tracking URI must begin with {', '.join(_SCHEMES[:-1])} or {_SCHEMES[-1]}: got {redact(uri)!r}; "
            "leave it out for an SQLite file in the runs folder, or name a server such as http://127.0.0.1:5000"
        )
    return uri


def valid_name(name: str) -> str:
    """Fit ``name`` into MLflow's characters (letters, digits, ``_-. /``) and length, so it does not look like a
    relative path.
    """
    kept = re.sub(r"[^/\w.\- ]", "_", name).strip("/ ")
    return posixpath.normpath(kept).replace("../", "__/")[:MAX_NAME].rstrip("/") if kept.strip(".") else "_"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested mappings to dotted names; numbers stay bare, other values are JSON, cut to MLflow's length."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[valid_name(name)] = text if len(text) <= MAX_PARAM else text[: MAX_PARAM - 3] + "..."
    return flat


def split_finite(metrics: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """Divide values into those that a chart can show, under valid names, and the rest (NaN, infinite, no number) as
    text.
    """
    finite: dict[str, float] = {}
    other: dict[str, str] = {}
    for name, value in metrics.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isfinite(number):
            finite[valid_name(name)] = number
        else:
            other[valid_name(name)] = str(value)
    return finite, other


def texts(tags: Mapping[str, str]) -> dict[str, str]:
    """Give tags valid names, and cut them to MLflow's length."""
    return {valid_name(key): str(text)[:MAX_TAG] for key, text in tags.items()}
