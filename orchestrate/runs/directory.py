"""Run directories: what a command leaves behind, and how it goes on or is skipped.

    config.yaml       the resolved config; runs as it stands
    run.json          the command, the fingerprint of config and inputs, their digests, and when it was first started
    environment.json  commit, versions, hardware
    result.json       typed and versioned, with the clock times of start and finish; it is written last, so its
                      presence means that the run is finished

The same command on a directory that is unfinished goes on in it; on one that is finished it returns the result.
Where the config or an input has changed, the old directory is moved aside (``NAME.1``, ``NAME.2`` ...), never
overwritten; records whose lines say themselves what they belong to are copied into the new one.  Workers, tracking and
``batch_size`` are not part of the fingerprint, since no result depends on them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from orchestrate.runs.environment import describe
from orchestrate.runs.inputs import without
from orchestrate.runs.layout import CONFIG, ENVIRONMENT, RESULT, RUN
from orchestrate.runs.progress import say
from qalof.digests import content_digest
from qalof.errors import BadInputError
from qalof.files import json_ready, read_json, write_json, write_text
from qalof.home import expanded
from qalof.reading import is_folder
from qalof.writing import check_folder, disk_errors

FORMAT_VERSION = 1
_NOT_FINGERPRINTED = ("workers", "tracking", "batch_size")
MEANINGS = {"sensitivity": 2, "search": 2, "profile": 2, "ptq": 2, "attack": 2, "evaluate": 2}
"""This number counts changes in what a command's result means; a run from before the last change is done again.

2: metrics that are better when lower have the sign, and are optimized in the direction, that is their own; profiles
have the speed of calibration; the rows of ptq have the bytes of adapters and of the whole; what attacks and evaluations
hold of random precision is under the key ``defense``.
"""


class RunState(StrEnum):
    """How far a run is at a place: it is ``new``, ``begun`` or ``finished``, or ``another`` one is there; in a pipeline
    also ``again``, finished and made of the files of a step that is not.
    """

    NEW = "new"
    BEGUN = "begun"
    FINISHED = "finished"
    ANOTHER = "another"
    AGAIN = "again"


class RunDirectory:
    """One run's folder, which :meth:`open` makes."""

    def __init__(self, path: Path, command: str) -> None:
        self.path, self.command = path, command

    @staticmethod
    def check(path: Path) -> None:
        """Check that a run can be at ``path``, and leave everything as it was.

        Raises:
            BadInputError: ``path`` is a file, a folder that holds something else than a run, or cannot be written.
        """
        path = expanded(path)
        check_folder(path, "--output")
        if is_folder(path) and any(path.iterdir()) and not (path / RUN).is_file():
            raise BadInputError(f"--output must be new or a run's folder: {path} holds other things; name another")

    @classmethod
    def open(
        cls,
        path: Path,
        command: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str] | None = None,
        carried: Sequence[str] = (),
    ) -> RunDirectory:
        """Open a new, unfinished or finished run at ``path``.

        Args:
            path: the folder, which is made if it is missing.
            command: the command's name, such as ``train``.
            config: the resolved config, as plain data.
            inputs: see :func:`orchestrate.runs.inputs.input_digests`.
            carried: names of files that a run of another config takes over from the run that it replaces.

        Raises:
            BadInputError: the same as for :meth:`check`.
        """
        path = expanded(path).absolute()
        inputs = inputs or {}
        before: Path | None = None
        fingerprint = fingerprint_of(command, config, inputs)
        self = cls(path, command)
        cls.check(path)
        if (path / RUN).is_file():
            run = read_json(path / RUN, "run file")
            if run.get("fingerprint") == fingerprint:
                return self
            cause = _changed(run.get("inputs", {}), inputs)
            before = _move_aside(path)
            say(f"{path} holds a run of {cause}: moved to {before.name}")
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            if before is not None and run.get("command") == command:
                for name in carried:
                    if (before / name).is_file():
                        shutil.copyfile(before / name, path / name)
        header = f"# qalof {command} --config {path / 'config.yaml'}\n"
        write_text(path / CONFIG, header + yaml.safe_dump(dict(config), sort_keys=False))
        write_json(path / ENVIRONMENT, describe())
        write_json(
            path / RUN,
            {
                "format_version": FORMAT_VERSION,
                "command": command,
                "fingerprint": fingerprint,
                "inputs": dict(inputs),
                "started": _now(),
            },
        )
        return self

    @classmethod
    def finished(
        cls, path: Path, command: str, config: Mapping[str, Any], inputs: Mapping[str, str]
    ) -> dict[str, Any] | None:
        """Read the result of a finished run of the same command, config and inputs; None where there is none."""
        path = expanded(path).absolute()
        if not (path / RUN).is_file():
            return None
        same = read_json(path / RUN, "run file").get("fingerprint") == fingerprint_of(command, config, inputs)
        return cls(path, command).result if same else None

    @classmethod
    def state(
        cls, path: Path, command: str, config: Mapping[str, Any], inputs: Callable[[], Mapping[str, str]]
    ) -> RunState:
        """Find how far a run of this command, config and inputs is at ``path``; ``inputs`` are found only if needed."""
        path = expanded(path).absolute()
        if not (path / RUN).is_file():
            return RunState.NEW
        if read_json(path / RUN, "run file").get("fingerprint") != fingerprint_of(command, config, inputs()):
            return RunState.ANOTHER
        return RunState.FINISHED if (path / RESULT).is_file() else RunState.BEGUN

    @property
    def result(self) -> dict[str, Any] | None:
        """The result of a finished run; None while it is unfinished."""
        path = self.path / RESULT
        return read_result(path) if path.is_file() else None

    def finish(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write the result, with null for numbers that are not finite; the run is finished then."""
        ready: dict[str, Any] = json_ready(result)
        times = {"started": read_json(self.path / RUN, "run file").get("started"), "finished": _now()}
        head = {"format_version": FORMAT_VERSION, "command": self.command}
        write_json(self.path / RESULT, {**head, **times, "result": ready})
        return ready


def read_result(path: Path) -> dict[str, Any]:
    """Read the ``result`` of a ``result.json``.

    Raises:
        BadInputError: the file is missing, damaged, of another form or of a newer version.
    """
    data = read_json(path, "result file")
    if not isinstance(data, Mapping) or not isinstance(data.get("result"), dict):
        raise BadInputError(f"result file {path} must hold an object with a result: it does not; run the command again")
    if data.get("format_version") != FORMAT_VERSION:
        raise BadInputError(
            f"result file {path} must have version {FORMAT_VERSION}: got {data.get('format_version')!r}"
        )
    result: dict[str, Any] = data["result"]
    return result


def read_moment(path: Path, key: str) -> float | None:
    """Read the clock time ``started`` or ``finished`` of a ``run.json`` or ``result.json``.

    Returns:
        Seconds since 1970; None for a file that was written before these times were kept.

    Raises:
        BadInputError: the file is missing or damaged, or holds no time.
    """
    data = read_json(path, "run file")
    text = data.get(key) if isinstance(data, Mapping) else None
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        raise BadInputError(f"{key} of {path} must be a time such as 2026-01-31T12:00:00+00:00: got {text!r}") from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def fingerprint_of(command: str, config: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> str:
    """Compute what is equal for runs of the same result: the same command, config (but for workers and tracking) and
    inputs.

    An input's digest takes the place of its path, which may be spelled or named otherwise.
    """
    given = inputs or {}
    kept = {key: value for key, value in config.items() if key not in _NOT_FINGERPRINTED}
    meant = f"{command}/{MEANINGS[command]}" if command in MEANINGS else command
    return content_digest(meant, without(kept, given), given)


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say what made a run a different one, as far as it is known."""
    named = [key for key in now if key in before and before[key] != now[key]]
    return f"another content of {', '.join(named)}" if named else "another config or input"


def _move_aside(path: Path) -> Path:
    number = 1
    while (target := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return path.rename(target)
