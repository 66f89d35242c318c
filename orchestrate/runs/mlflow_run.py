"""An open run of the record, as the work of a command sees it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrate.runs.mlflow_values import flatten, split_finite
from orchestrate.runs.mlflow_writes import Value, batches, create
from qalof.digests import content_digest

FILTERS = ("command", "model", "method")
"""The tags by which runs are found, which a run's children have from it."""


class Run:
    """An open parent run.  Its methods never raise an error of the store: what fails waits in the tracker."""

    def __init__(
        self, key: str, send: Callable[..., object], id_of: Callable[[str], str | None], *, resumed: bool = False,
        tags: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.key, self.resumed = key, resumed
        self._shared = {name: text for name, text in (tags or {}).items() if name in FILTERS}
        self._send, self._id_of = send, id_of
        self._noted: set[str] = set()

    @property
    def run_id(self) -> str | None:
        """The id of the run; None while it is not made yet."""
        return self._id_of(self.key)

    def log_metrics(self, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Write one point of several curves."""
        self.log_series([(step, metrics)])

    def log_series(self, points: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Write many points, 800 values per request.  The first value of a name that is not finite becomes a tag."""
        now = now_ms()
        values: list[Value] = []
        notes: dict[str, str] = {}
        for step, metrics in points:
            finite, other = split_finite(metrics)
            values += [(name, value, now, step) for name, value in finite.items()]
            notes |= {f"not_finite.{n}": f"{t} at step {step}" for n, t in other.items() if n not in self._noted}
            self._noted |= set(other)
        self._send(*batches(self.key, {}, values, notes))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Add or replace tags."""
        self._send(*batches(self.key, {}, [], tags))

    def child(
        self,
        name: str,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        status: str = "FINISHED",
        span: tuple[float, float] | None = None,
        identity: str | None = None,
        files: Mapping[str, str] | None = None,
    ) -> str:
        """Write a finished run under this one, whole: a trial, or a bitmap that was evaluated.

        Args:
            name: what the list of runs shows.
            params: nested settings, flattened by :func:`flatten`.
            metrics: its values.
            tags: texts, which are cut to MLflow's length; those of :data:`FILTERS` that are not given are the parent's.
            status: how it ended.
            span: when it began and ended, in seconds since 1970; None for now.
            identity: what no other run under this one has; None takes the name.  A run that goes on writes no run
                twice.
            files: texts that are kept as files, by their names.

        Returns:
            The key of the run.
        """
        began, now = (round(1000 * at) for at in span) if span else (now_ms(), now_ms())
        key = content_digest(self.key, identity or name)[:32]
        finite, other = split_finite(metrics or {})
        labels = {**self._shared, **(tags or {}), **{f"not_finite.{name}": text for name, text in other.items()}}
        values = [(name, value, now, 0) for name, value in finite.items()]
        self._send(
            create(key, name, labels, began, self.key, once=self.resumed),
            *batches(key, flatten(params or {}), values, first=True),
            *({"do": "text", "run": key, "name": n, "text": text, "first": True} for n, text in (files or {}).items()),
            {"do": "end", "run": key, "status": status, "ended": now, "first": True},
        )
        return key

    def datasets(self, described: Sequence[Mapping[str, str]]) -> None:
        """Write which data it uses: name, digest, source_type, source and context of each."""
        if described:
            self._send({"do": "datasets", "run": self.key, "datasets": [dict(each) for each in described]})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or what a folder holds, to the run."""
        self._send({"do": "artifact", "run": self.key, "path": str(path.absolute()), "folder": folder})


def now_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
