"""Many processes and the record: Ray, MLflow, reports and the command line.

Ray and its libraries read their settings when they are imported, so the settings are made here, before anything
of this package can import them.
"""

from __future__ import annotations

import os
from typing import Any

from orchestrate.cluster.connection import DRIVER_ENVIRONMENT

for _name, _value in DRIVER_ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

__all__ = ["CheckpointEvaluator", "connect", "search"]


def __getattr__(name: str) -> Any:
    """Return a name of the Python API, which is imported on first use, since Ray takes seconds."""
    if name == "connect":
        from orchestrate.cluster.connection import connect

        return connect
    if name in ("search", "CheckpointEvaluator"):
        from orchestrate.jobs.search import on_tune as search_job

        return getattr(search_job, name)
    raise AttributeError(f"module 'orchestrate' has no attribute {name!r}")
