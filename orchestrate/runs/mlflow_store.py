"""Where the record in MLflow is: addresses of stores, and opening one that others may open at the same time.

Without a server's URI the record is an SQLite file and a folder of artifacts, ``<root>/mlflow.db`` and
``<root>/mlartifacts``.  MLflow makes an SQLite file's tables without a lock: of several first runs all but one fail,
since a table is there already.  So whoever opens such a record holds a lock file next to it, which ends with its
process.

A path becomes part of an address: SQLAlchemy decodes ``%2F`` in it and takes ``?`` for the beginning of a query, so
both are escaped.  MLflow makes the folder of an address that begins with ``sqlite:///``, without decoding it, so an
escaped one names its driver too.  Links are left as they are, since a file's neighbors are those of its name.
"""

from __future__ import annotations

import logging
import os
import sys
import urllib.parse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from orchestrate.config.redaction import conceal, redact
from orchestrate.runs.mlflow_values import check_uri
from orchestrate.runs.mlflow_writes import away
from qalof.errors import BadInputError
from qalof.writing import check_file, check_folder

DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
_PLAIN, _ESCAPED = "sqlite:///", "sqlite+pysqlite:///"

#: Left alone, MLflow tries a dead server for four minutes, and reports its use to its makers.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class StoreAwayError(BadInputError):
    """A server that cannot be reached now, or cannot answer now; it may later."""


@dataclass(frozen=True)
class Place:
    """Where a record is."""

    root: Path
    """The folder of the SQLite record, which is not used where there is a server."""
    given: str | None = None
    """The URI of a server or database; None takes the record in ``root``."""
    experiment: str = "qalof"
    """The name of the experiment."""

    @property
    def uri(self) -> str:
        """The URI of the store."""
        return default_uri(self.root) if self.given is None else self.given

    @property
    def is_server(self) -> bool:
        """Whether a server answers over HTTP, and not a database."""
        return self.uri.startswith(("http:", "https:"))

    def connect(self) -> tuple[Any, str]:
        """Return MLflow's client and the experiment's id.

        Raises:
            BadInputError: see :func:`open_store`.
        """
        client, experiment_id, _ = open_store(self.root, self.given, self.experiment)
        return client, experiment_id


def default_uri(root: Path) -> str:
    """Return the URI of the SQLite record in ``root``."""
    path = (root.absolute() / DATABASE).as_posix()
    escaped = path.replace("%", "%25").replace("?", "%3F")
    return f"{_PLAIN if escaped == path else _ESCAPED}{escaped}"


def database_of(uri: str) -> Path | None:
    """Return the file of an SQLite record; None where ``uri`` is a server's, or has no file."""
    scheme, _, path = uri.partition(":///")
    if scheme.split("+")[0] != "sqlite" or not path:
        return None
    return Path(urllib.parse.unquote(path.partition("?")[0]))


def ui_command(root: Path, port: int = 5000) -> list[str]:
    """Return the command that shows the record in ``root`` on 127.0.0.1, in two processes.

    Without the variable MLflow starts eight more, for jobs that nobody sends; they take 0.9 GB.
    """
    settings = ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "MLFLOW_DISABLE_TELEMETRY=true")
    store = (
        "--backend-store-uri",
        default_uri(root),
        "--default-artifact-root",
        (root.absolute() / ARTIFACTS).as_uri(),
    )
    network = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    return ["env", *settings, sys.executable, "-m", "mlflow", "server", *store, *network]


def open_store(root: Path, uri: str | None, experiment: str) -> tuple[Any, str, str]:
    """Open a store: return MLflow's client, the experiment's id, and the store's URI.

    Args:
        root: the folder of the SQLite record, which is not used where ``uri`` is given.
        uri: the URI of a server or database; None takes the record in ``root``.
        experiment: the name of the experiment, which is made where it is missing.

    Raises:
        StoreAwayError: a server does not answer now.
        BadInputError: the store cannot be read or written, or its experiment is deleted.
    """
    place = default_uri(root) if uri is None else check_uri(uri)
    artifacts = None if uri is not None else (root.absolute() / ARTIFACTS).as_uri()
    if uri is None:
        check_root(root)
    try:
        if uri is None:
            root.mkdir(parents=True, exist_ok=True)
        with _alone(database_of(place)):
            client = _client(place)
            found = client.get_experiment_by_name(experiment) or _made(client, experiment, artifacts)
    except Exception as error:
        if place.startswith(("http:", "https:")) and away(error):
            said = f"the tracking server must answer: {redact(place)} does not ({reason(error, place)}); start it"
            raise StoreAwayError(said) from None
        raise unusable(place, error) from None
    if found.lifecycle_stage == "deleted":
        raise BadInputError(
            f"the MLflow experiment must not be deleted: {experiment!r} is, at {redact(place)}; restore it by "
            f"`MLFLOW_TRACKING_URI={redact(place)} mlflow experiments restore --experiment-id {found.experiment_id}`, "
            "or set tracking.experiment to another name"
        )
    return client, found.experiment_id, place


def check_root(root: Path) -> None:
    """Check that the SQLite record can be in ``root``, and leave everything as it was.

    Raises:
        BadInputError: ``root`` is a file or cannot be written, or the record's name is a folder's.
    """
    try:
        check_folder(root, "it")
        check_file(root / DATABASE, "the record")
    except BadInputError as error:
        raise BadInputError(f"tracking.root must be a folder that can hold the record of runs: {error}") from None


def check_machines(machines: int, uri: str) -> None:
    """Check that a record can be kept while so many machines work.

    An SQLite file is safe on one machine alone: file systems that several share do not keep its locks, and a driver
    that is started again on another machine would begin another record.

    Args:
        machines: how many machines the cluster has.
        uri: the URI of the store.

    Raises:
        BadInputError: there are several, and the store is an SQLite file.
    """
    if machines > 1 and (file := database_of(uri)) is not None:
        raise BadInputError(
            f"tracking.uri must name a server where workers run on several machines: the cluster has {machines}, and "
            f"the record is the SQLite file {file}; start `mlflow server --backend-store-uri sqlite:///mlflow.db "
            "--host 127.0.0.1 --port 5000` on the machine where this command or job runs, which alone writes to it, "
            "and give tracking.uri=http://127.0.0.1:5000"
        )


def unusable(uri: str, error: Exception) -> BadInputError:
    """Word the error for a store that refuses."""
    return BadInputError(
        f"the tracking store must be reachable and writable: {redact(uri)} is not ({reason(error, uri)}); "
        "start its server, correct the URI, or leave it out for an SQLite file in the runs folder"
    )


def reason(error: Exception, uri: str) -> str:
    """Take the first line of an error, without the secrets of the store's URI."""
    return conceal((str(error).strip().splitlines() or [type(error).__name__])[0], uri)[:300]


@contextmanager
def _alone(database: Path | None) -> Iterator[None]:
    """Wait for the lock of an SQLite record, and hold it."""
    lock = nullcontext() if database is None else FileLock(database.with_name(f".{database.name}.lock"))
    with lock:
        yield


def _made(client: Any, experiment: str, artifacts: str | None) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        client.create_experiment(experiment, artifacts)
    except MlflowException as error:  # on a server another process may have been quicker
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.get_experiment_by_name(experiment)


def _client(uri: str) -> Any:
    """Make MLflow's client, quiet and quick to give up."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"mlflow\..*")
    from mlflow.tracking import MlflowClient

    # MLflow sets its loggers up on import, and Alembic's while it makes a database.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)
