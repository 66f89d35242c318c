"""The record in MLflow: one parent run per command, and child runs for trials and bitmaps, written in batches.

MLflow observes.  What a run found is in the files of its run directory; so a tracking server that is down at the
start is an error before any worker is started, while one that goes away in the middle is a warning:
what could not be written is kept, tried again from time to time and at the end, with its first time stamp.

:mod:`orchestrate.runs.mlflow_store` says where the record is.  MLflow's older store of plain files is refused: it is no
longer maintained, and its search reads every run.  The client is used rather than the fluent ``mlflow.start_run``,
which keeps the current run in a global and records the user and host names.

MLflow's own asynchronous logging (``synchronous=False``) was tried in place of the list of waiting writes, against a
server that was killed and started again 20 seconds later while 60 values were logged.  It asks for each write once:
when its HTTP client has used up its retries, the write is dropped with a line in the log, and the next is asked for.
With one retry, which is what keeps a dead server from holding up the start of a command, 50 of 60 values were lost.
With MLflow's default retries none was lost, but the end of the run took 146 seconds; a server that stays away longer
than they last loses them as before.  Moreover, it covers neither the making nor the ending of runs, nor artifacts.  So
the list stays: it keeps every write until it is written, in order, and tries again no more often than
:data:`RETRY_EVERY`.

Parameters are flattened to dotted names (``bits.h.0.attn.c_attn = 4``), and numbers are written as bare numbers:
the parallel coordinates of the compare page draw such an axis to scale, and any other as categories.
Importing MLflow takes seconds, so only :meth:`Tracker.open` does it.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrate.config.redaction import conceal, redact
from orchestrate.runs.mlflow_store import open_store, reason, unusable
from orchestrate.runs.mlflow_values import flatten, split_finite, texts

logger = logging.getLogger(__name__)

#: MLflow's limits for one request; its 1000 entries count parameters and tags as well.
METRICS_A_BATCH, PARAMS_A_BATCH = 800, 100
#: Seconds between tries to reach a store that failed; each try may take as long as its time limit.
RETRY_EVERY = 30.0

#: A metric: name, value, milliseconds since 1970, step.
Value = tuple[str, float, int, int]


class Tracker:
    """A store of runs, and what could not yet be written to it; :meth:`open` makes it, in the driver only."""

    def __init__(self, client: Any, experiment_id: str, uri: str) -> None:
        self.client, self.experiment_id, self.uri = client, experiment_id, uri
        self._waiting: deque[Callable[[], object]] = deque()
        self._next_try = 0.0

    @classmethod
    def open(cls, root: Path, uri: str | None = None, experiment: str = "qalof") -> Tracker:
        """Open the record in ``root``, or a server's, and make the experiment where it is missing.

        Raises:
            BadInputError: see :func:`~orchestrate.runs.mlflow_store.open_store`.
        """
        return cls(*open_store(root, uri, experiment))

    @contextmanager
    def parent(
        self,
        name: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        resume: str | None = None,
    ) -> Iterator[Run]:
        """Keep a run open for the length of the block: it ends as FINISHED, FAILED on an exception, KILLED on an
        interrupt or exit.

        Args:
            name: what the list of runs shows.
            params: nested settings, flattened by :func:`flatten`; they are not written again on resuming.
            tags: texts, which are cut to MLflow's length.
            resume: the ``run_id`` of an interrupted run to go on with, where this store knows it.

        Raises:
            BadInputError: the run could not be made.
        """
        try:
            run = self._reopen(resume) or self._create(name, params or {}, tags or {})
        except Exception as error:
            raise unusable(self.uri, error) from None
        status = "KILLED"
        try:
            yield run
            status = "FINISHED"
        except Exception as error:
            status = "FAILED"
            run.set_tags({"error": conceal(f"{type(error).__name__}: {error}", self.uri)})
            raise
        finally:
            self.send(lambda: self.client.set_terminated(run.run_id, status))
            self.flush()

    def send(self, *steps: Callable[[], object]) -> bool:
        """Run ``steps`` in order, after those that still wait; return whether all is written."""
        self._waiting.extend(steps)
        return time.monotonic() >= self._next_try and self.flush()

    def flush(self) -> bool:
        """Try to write all that waits; return whether nothing is left."""
        while self._waiting:
            try:
                self._waiting[0]()
            except Exception as error:
                if not _hopeless(error):
                    self._next_try = time.monotonic() + RETRY_EVERY
                    lost = "fails: %s; %d writes wait and are tried again, the results are in the run directory"
                    values = redact(self.uri), reason(error, self.uri), len(self._waiting)
                    logger.warning(f"tracking at %s {lost}", *values)
                    return False
                place, why = redact(self.uri), reason(error, self.uri)
                logger.warning("tracking at %s refuses a write, which is left out: %s", place, why)
            self._waiting.popleft()
        self._next_try = 0.0
        return True

    def _reopen(self, run_id: str | None) -> Run | None:
        """Reopen the run of an earlier try; None where this store has none of that id."""
        if run_id is None:
            return None
        from mlflow.exceptions import MlflowException

        try:
            self.client.update_run(run_id, status="RUNNING")
        except MlflowException:
            return None
        return Run(self, run_id)

    def _create(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> Run:
        made = self.client.create_run(self.experiment_id, run_name=name, tags=texts(tags))
        run = Run(self, made.info.run_id)
        for write in _writes(self.client, lambda: run.run_id, flatten(params), []):
            write()
        return run


class Run:
    """An open parent run.  Its methods never raise an error of the store: what fails waits in the tracker."""

    def __init__(self, tracker: Tracker, run_id: str) -> None:
        self.run_id = run_id
        self._tracker, self._client = tracker, tracker.client
        self._noted: set[str] = set()

    def log_metrics(self, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Write one point of several curves."""
        self.log_series([(step, metrics)])

    def log_series(self, points: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Write many points, 1000 values per request.  The first value of a name that is not finite becomes a tag."""
        now = _now()
        values: list[Value] = []
        notes: dict[str, str] = {}
        for step, metrics in points:
            finite, other = split_finite(metrics)
            values += [(name, value, now, step) for name, value in finite.items()]
            notes |= {f"not_finite.{n}": f"{t} at step {step}" for n, t in other.items() if n not in self._noted}
            self._noted |= set(other)
        self._tracker.send(*_writes(self._client, lambda: self.run_id, {}, values, notes))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Add or replace tags."""
        self._tracker.send(*_writes(self._client, lambda: self.run_id, {}, [], tags))

    def child(
        self,
        name: str,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        status: str = "FINISHED",
    ) -> str | None:
        """Write a finished run under this one, whole: a trial, or a bitmap that was evaluated.

        Returns:
            The run's id, or None while the store cannot be reached (it is written later).
        """
        now, made = _now(), [""]
        finite, other = split_finite(metrics or {})
        notes = {f"not_finite.{key}": text for key, text in other.items()}
        labels = texts({**(tags or {}), **notes, "mlflow.parentRunId": self.run_id})
        values = [(key, value, now, 0) for key, value in finite.items()]
        client, experiment = self._client, self._tracker.experiment_id

        def create() -> None:
            made[0] = client.create_run(experiment, start_time=now, run_name=name, tags=labels).info.run_id

        steps = [create, *_writes(client, lambda: made[0], flatten(params or {}), values)]
        self._tracker.send(*steps, lambda: client.set_terminated(made[0], status, now))
        return made[0] or None

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or what a folder holds, to the run; it must stay in its place until the run ends."""
        log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        self._tracker.send(lambda: log(self.run_id, str(path), folder))

    def figure(self, figure: Any, name: str) -> None:
        """Store a matplotlib figure as ``name``, such as ``plots/front.png``; close it only after the run."""
        self._tracker.send(lambda: self._client.log_figure(self.run_id, figure, name))


def _writes(
    client: Any,
    run_id: Callable[[], str],
    params: Mapping[str, str],
    values: list[Value],
    tags: Mapping[str, str] | None = None,
) -> list[Callable[[], object]]:
    """Plan the fewest ``log_batch`` calls for all of it, as steps to be run in order.

    Args:
        client: MLflow's client.
        run_id: returns the run's id when the step runs, since a child has no id before it is created.
        params: name -> text, cleaned.
        values: (name, value, milliseconds, step) of finite metrics.
        tags: name -> text.
    """
    from mlflow.entities import Metric, Param, RunTag

    points = [Metric(*value) for value in values]
    settings = [Param(*item) for item in params.items()]
    labels = [RunTag(*item) for item in texts(tags or {}).items()]

    def step(index: int) -> Callable[[], object]:
        few = slice(index * PARAMS_A_BATCH, (index + 1) * PARAMS_A_BATCH)
        many = slice(index * METRICS_A_BATCH, (index + 1) * METRICS_A_BATCH)
        return lambda: client.log_batch(run_id(), points[many], settings[few], labels[few])

    longest = max(len(settings), len(labels)) / PARAMS_A_BATCH
    return [step(index) for index in range(math.ceil(max(longest, len(points) / METRICS_A_BATCH)))]


def _now() -> int:
    return time.time_ns() // 1_000_000


def _hopeless(error: Exception) -> bool:
    """Whether the same write would be refused again, in which case keeping it would hold up all others."""
    lasting = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "PERMISSION_DENIED")
    return isinstance(error, FileNotFoundError) or getattr(error, "error_code", None) in lasting
