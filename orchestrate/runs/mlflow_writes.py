"""Writes to MLflow as plain data, and how each is done.

    create     a run, under the key that later writes name it by
    batch      metrics, parameters and tags of a run
    datasets   the data that a run used
    artifact   a file or folder, copied as it is when its turn comes
    text       a text, as a file of its own
    end        the end of a run

Every one of them may be done again without a trace, since nobody can know whether a request that broke off was
carried out.  MLflow itself takes equal metrics (name, value, time, step), parameters, tags and inputs as one, and
replaces files.  It would make a run twice; so each run has a key of ours in a tag, and whoever makes one that may be
there already looks for it first.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrate.runs.mlflow_queue import Write
from orchestrate.runs.mlflow_values import texts

#: MLflow's limits for one request; its 1000 entries count parameters and tags as well.
METRICS_A_BATCH, PARAMS_A_BATCH = 800, 100
KEY = "qalof.key"
"""The tag that holds a run's key."""
PARENT = "mlflow.parentRunId"

#: A metric: name, value, milliseconds since 1970, step.
Value = tuple[str, float, int, int]


def new_key() -> str:
    """Return a key that no other run has."""
    return uuid.uuid4().hex


def create(
    key: str, name: str, tags: Mapping[str, str], started: int, parent: str | None = None,
    known: str | None = None, resume: bool = False, once: bool = False,
) -> Write:  # fmt: skip
    """Make a run.

    Args:
        key: its key.
        name: what the list of runs shows.
        tags: name -> text.
        started: milliseconds since 1970.
        parent: the key of the run above it.
        known: the id of the run, where it was made by a program that gave it no key.
        resume: whether the run may be there already and is to go on.
        once: whether the run may be there already and is then left as it is.
    """
    labels = texts({**tags, KEY: key})
    return {
        "do": "create", "run": key, "name": name, "tags": labels, "started": started, "parent": parent,
        "known": known, "resume": resume, "once": once,
    }  # fmt: skip


def batches(
    key: str, params: Mapping[str, str], values: Sequence[Value], tags: Mapping[str, str] | None = None,
    *, first: bool = False,
) -> list[Write]:  # fmt: skip
    """Plan the fewest requests for all of it.

    Args:
        key: that of the run.
        params: name -> text, cleaned.
        values: (name, value, milliseconds, step) of finite metrics.
        tags: name -> text.
        first: whether it belongs to the making of the run, so it is left out where the run was resumed.
    """
    settings, labels = list(params.items()), list(texts(tags or {}).items())
    longest = max(len(settings), len(labels)) / PARAMS_A_BATCH
    count = math.ceil(max(longest, len(values) / METRICS_A_BATCH))
    return [
        {
            "do": "batch", "run": key, "first": first,
            "metrics": [list(v) for v in values[i * METRICS_A_BATCH : (i + 1) * METRICS_A_BATCH]],
            "params": dict(settings[i * PARAMS_A_BATCH : (i + 1) * PARAMS_A_BATCH]),
            "tags": dict(labels[i * PARAMS_A_BATCH : (i + 1) * PARAMS_A_BATCH]),
        }
        for i in range(count)
    ]  # fmt: skip


class MissingRunError(Exception):
    """The store has no run of this key, and no write makes it."""

    error_code = "RESOURCE_DOES_NOT_EXIST"


class OutsideError(Exception):
    """A queue names a file outside its run directory, which somebody else may have written into it."""

    error_code = "INVALID_PARAMETER_VALUE"


class ParentAwayError(Exception):
    """The run above is not made yet, by another process or queue."""


class Writer:
    """Does writes with one client; it remembers the ids of runs by their keys."""

    def __init__(self, client: Any, experiment_id: str) -> None:
        self.client, self.experiment_id = client, experiment_id
        self.ids: dict[str, str] = {}
        self.folder: Path | None = None
        """The run directory, outside of which no file is sent; None has no such bound."""
        self._resumed: set[str] = set()

    def do(self, write: Write, again: bool) -> None:
        """Do one write; ``again`` says whether it may have been done before.

        Raises:
            Exception: whatever the client raises; ParentAwayError, MissingRunError.
        """
        kind = write["do"]
        if kind == "create":
            self._create(write, again)
            return
        run_id = self.id_of(write["run"])
        if run_id is None:
            raise MissingRunError(f"there is no run of the key {write['run']}")
        if write.get("first") and write["run"] in self._resumed:
            return
        if kind == "batch":
            self._batch(run_id, write)
        elif kind == "artifact":
            path = Path(write["path"])
            if self.folder is not None and not path.resolve().is_relative_to(self.folder.resolve()):
                raise OutsideError(f"an artifact must lie in the run directory {self.folder}: {path} does not")
            log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
            log(run_id, str(path), write["folder"])
        elif kind == "text":
            self.client.log_text(run_id, write["text"], write["name"])
        elif kind == "datasets":
            self._datasets(run_id, write["datasets"])
        elif kind == "end":
            self.client.set_terminated(run_id, write["status"], write["ended"])
        else:
            raise ValueError(f"no write is named {kind!r}")

    def id_of(self, key: str) -> str | None:
        """Return the id of the run of a key; None where the store has none."""
        if key not in self.ids:
            found = self.client.search_runs([self.experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1)
            if not found:
                return None
            self.ids[key] = found[0].info.run_id
        return self.ids[key]

    def _create(self, write: Write, again: bool) -> None:
        key = write["run"]
        if write["resume"] and (run_id := self._known(write["known"]) or self.id_of(key)):
            self.client.update_run(run_id, status="RUNNING")
            self.ids[key] = run_id
            self._resumed.add(key)
            return
        if write["once"] and self.id_of(key):
            self._resumed.add(key)
            return
        if again and self.id_of(key):
            return
        tags = dict(write["tags"])
        if write["parent"]:
            if (above := self.id_of(write["parent"])) is None:
                raise ParentAwayError("the run above it is not made yet")
            tags[PARENT] = above
        made = self.client.create_run(self.experiment_id, write["started"], tags, write["name"])
        self.ids[key] = made.info.run_id

    def _known(self, run_id: str | None) -> str | None:
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return None
        try:
            return str(self.client.get_run(run_id).info.run_id)
        except MlflowException as error:
            if error.get_http_status_code() >= 500:
                raise
            return None

    def _datasets(self, run_id: str, described: Sequence[Mapping[str, str]]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(each["name"], each["digest"], each["source_type"], each["source"]),
                [InputTag("mlflow.data.context", each["context"])],
            )
            for each in described
        ]
        self.client.log_inputs(run_id, inputs)

    def _batch(self, run_id: str, write: Write) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self.client.log_batch(
            run_id,
            [Metric(*value) for value in write["metrics"]],
            [Param(*item) for item in write["params"].items()],
            [RunTag(*item) for item in write["tags"].items()],
        )


def hopeless(error: Exception) -> bool:
    """Return whether the same write would be refused again, in which case keeping it would hold up all others.

    A refusal for lack of a right is not hopeless: rights are given, and tokens renewed.
    """
    lasting = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")
    return isinstance(error, FileNotFoundError) or getattr(error, "error_code", None) in lasting


def away(error: Exception) -> bool:
    """Return whether an error says that a server cannot be reached now, or cannot answer now."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status: int = error.get_http_status_code()
        return status >= 500 or status == 429
    return isinstance(error, OSError)
