"""The record of runs in MLflow: a parent run for each command, child runs for trials and bitmaps, written in batches.

MLflow observes.  What a run found is in the files of its run directory, so no store ends a run: what could not be
written waits in the run directory (:mod:`orchestrate.runs.mlflow_queue`), is tried again from time to time and at the
end, with its first time stamp, and after that by ``qalof sync`` and by the next command on that directory.  Only a
store that can never be used is an error, before any worker is started.  Writes to a server are done by a thread: a slow
one takes no time from the work.

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
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from orchestrate.config.redaction import conceal, redact
from orchestrate.runs.layout import TRACKING_QUEUE
from orchestrate.runs.mlflow_queue import Queue, Write
from orchestrate.runs.mlflow_run import Run, now_ms
from orchestrate.runs.mlflow_store import Place, StoreAwayError, reason
from orchestrate.runs.mlflow_values import flatten
from orchestrate.runs.mlflow_writes import Writer, batches, create, hopeless, new_key
from orchestrate.runs.progress import say
from qalof.errors import BadInputError

logger = logging.getLogger(__name__)

#: Seconds between tries to reach a store that failed; each try may take as long as its time limit.
RETRY_EVERY = 30.0
#: Seconds that the end of a run waits for a slow server.
CLOSING = 60.0


class Resumed(NamedTuple):
    """An interrupted run, by its id, its key, or both."""

    run_id: str | None = None
    key: str | None = None


class Tracker:
    """A store of runs, and what could not yet be written to it; :meth:`open` makes it, in the driver only."""

    def __init__(self, place: Place, writer: Writer | None) -> None:
        self.place, self.uri = place, place.uri
        self._writer = writer
        self._queue = Queue()
        self._sending, self._next_try, self._closed = threading.RLock(), 0.0, False
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._tried: str | None = None

    @classmethod
    def open(cls, root: Path, uri: str | None = None, experiment: str = "qalof") -> Tracker:
        """Open the record in ``root``, or a server's, and make the experiment where it is missing.

        A server that cannot be reached now is asked again later.

        Raises:
            BadInputError: see :func:`~orchestrate.runs.mlflow_store.open_store`.
        """
        place = Place(root, uri, experiment)
        try:
            return cls(place, Writer(*place.connect()))
        except StoreAwayError as error:
            logger.warning("%s; the run goes on, and its record waits in the run directory", error)
            return cls(place, None)

    @property
    def writer(self) -> Writer:
        """What does the writes; it connects where the server could not be reached before.

        Raises:
            BadInputError: the store cannot be used.
        """
        if self._writer is None:
            self._writer = Writer(*self.place.connect())
        return self._writer

    @property
    def client(self) -> Any:
        """MLflow's client."""
        return self.writer.client

    @property
    def experiment_id(self) -> str:
        """The id of the experiment."""
        return self.writer.experiment_id

    def known_id(self, key: str) -> str | None:
        """Return the id of the run of a key, where this process knows it."""
        return None if self._writer is None else self._writer.ids.get(key)

    @contextmanager
    def parent(
        self,
        name: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        resume: Resumed | None = None,
        folder: Path | None = None,
        above: str | None = None,
        key: str | None = None,
    ) -> Iterator[Run]:
        """Keep a run open for the length of the block: it ends as FINISHED, FAILED on an exception, KILLED on an
        interrupt or exit.

        Args:
            name: what the list of runs shows.
            params: nested settings, flattened by :func:`flatten`; they are not written again on resuming.
            tags: texts, which are cut to MLflow's length.
            resume: an interrupted run to go on with, where this store knows it.
            folder: the run directory, in which writes wait; None keeps them in memory.
            above: the key of the run under which this one is.
            key: the key of the run; None takes that of ``resume``, or a new one.
        """
        self.adopt(folder)
        key = key or (resume.key if resume else None) or new_key()
        run = Run(key, self.send, self.known_id, resumed=resume is not None, tags=tags)
        begin = create(
            key, name, tags or {}, now_ms(), above, resume.run_id if resume else None, resume=resume is not None
        )
        self.send(begin, *batches(key, flatten(params or {}), [], first=True))
        status = "KILLED"
        try:
            yield run
            status = "FINISHED"
        except Exception as error:
            status = "FAILED"
            run.set_tags({"error": conceal(f"{type(error).__name__}: {error}", self.uri)})
            raise
        finally:
            self.send({"do": "end", "run": key, "status": status, "ended": now_ms()})
            self.close()

    def adopt(self, folder: Path | None) -> None:
        """Let writes wait in a run directory, after those that an earlier process has left there."""
        waiting = self._queue
        self._queue = Queue(None if folder is None else folder / TRACKING_QUEUE)
        while (write := waiting.first()) is not None:
            self._queue.add([write])
            waiting.drop_first()

    def send(self, *writes: Write) -> bool:
        """Do ``writes`` in order, after those that still wait; return whether all is written.

        Those to a server are done by a thread, so a slow one holds up nobody.
        """
        self._queue.add(writes)
        if self.place.is_server:
            if self._thread is None or self._closed:
                self._closed = False
                self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
                self._thread.start()
            self._wake.set()
            return False
        return time.monotonic() >= self._next_try and self.flush()

    def flush(self, deadline: float = math.inf) -> bool:
        """Try to do all that waits, until ``deadline`` on the clock of :func:`time.monotonic`; return whether nothing
        is left.
        """
        with self._sending:
            while (write := self._queue.first()) is not None:
                if time.monotonic() > deadline or (self._closed and threading.current_thread() is self._thread):
                    return False
                again = self._queue.inherited > 0 or self._tried == write["run"]
                self._tried = write["run"]
                try:
                    self.writer.folder = None if self._queue.path is None else self._queue.path.parent
                    self.writer.do(write, again)
                except Exception as error:
                    if not hopeless(error) or isinstance(error, BadInputError):
                        self._next_try = time.monotonic() + RETRY_EVERY
                        lost = "fails: %s; %d writes wait and are tried again, the results are in the run directory"
                        values = redact(self.uri), reason(error, self.uri), len(self._queue)
                        logger.warning(f"tracking at %s {lost}", *values)
                        return False
                    place, why = redact(self.uri), reason(error, self.uri)
                    logger.warning("tracking at %s refuses a write, which is left out: %s", place, why)
                self._queue.drop_first()
                self._tried = None
            self._next_try = 0.0
            return True

    def close(self) -> None:
        """Do what waits within :data:`CLOSING` seconds, and say what is left."""
        self._closed = True
        self._wake.set()
        if self.flush(time.monotonic() + CLOSING) or self._queue.path is None:
            return
        folder = self._queue.path.parent
        say(f"{len(self._queue)} writes for MLflow wait: `qalof sync {folder}` does them, or the next command there")

    def _work(self) -> None:
        while not self._closed:
            self._wake.wait(max(0.0, self._next_try - time.monotonic()) if self._next_try else None)
            self._wake.clear()
            if time.monotonic() >= self._next_try:
                self.flush()
