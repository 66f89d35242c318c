"""A run's folder as a record of steps: which there are, how far each came, and what it found.

A pipeline lists its steps in ``pipeline.json`` from the start, with the seconds of those that are done, and the
seconds of the whole at its end.  A folder without it is a single run (it has ``run.json`` itself), what is left of a
pipeline (its subfolders have), or nothing of ours.  A step counts as finished if its ``result.json`` is there, for
that is written last.  Clock times are those in ``run.json`` and ``result.json``.  Of runs made before these held any,
they are those of the files, which a copy made with other tools than ``cp -p`` loses; they are left out where they
cannot be right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import yaml

from orchestrate.document.findings import recorded_lines, well_formed
from orchestrate.runs.directory import read_moment, read_result
from orchestrate.runs.layout import CHECKPOINT, CONFIG, ENVIRONMENT, PIPELINE, RESULT, RUN, TRACKING
from qalof.errors import BadInputError
from qalof.files import read_json
from qalof.home import expanded
from qalof.reading import read_text

_NAME = re.compile(r"[\w-]+$")


class Reader(Protocol):
    """What reading a run asks of its command; :class:`orchestrate.jobs.base.Job` answers it."""

    @property
    def record(self) -> tuple[str, str] | None:
        """A file that grows line by line, and the word for what a line holds."""

    def so_far(self, folder: Path) -> Any:
        """Read what a report shows of a run directory, finished or not."""

    def findings(self, folder: Path, result: Mapping[str, Any]) -> Any:
        """Read the result of a finished run as typed values."""


Readers = Mapping[str, Reader]
"""A command -> what reads its runs."""


class State(StrEnum):
    """How far a step came."""

    FINISHED = "finished"
    UNFINISHED = "not finished"
    WAITING = "not begun"
    MISSING = "not there"


@dataclass(frozen=True)
class Step:
    """One run directory.

    ``written_at`` is the folder's place when it ran, from its config's first line.  ``seconds`` is the wall time, None
    while unfinished; ``started`` and ``ended`` are seconds since 1970.  ``recorded`` counts evaluations or attacks in
    its record.  ``so_far`` is what a run holds whether it is finished or not, such as losses of training; ``findings``
    is the typed result of a finished run.  The command's job knows the types of both.
    """

    name: str
    command: str
    folder: Path
    state: State
    config: Mapping[str, Any]
    written_at: Path
    environment: Mapping[str, Any]
    tracking: Mapping[str, Any]
    seconds: float | None = None
    started: float | None = None
    ended: float | None = None
    recorded: int = 0
    so_far: Any = None
    findings: Any = None

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint whose model the findings are about; None for a step that has none."""
        if self.command == "train":
            return self.written_at / CHECKPOINT
        given = self.config.get("checkpoint")
        return None if given is None else Path(given)


@dataclass(frozen=True)
class Record:
    """A pipeline's folder, or a single run's.

    A ``whole`` record has nothing that is known to be missing; a ``single`` one is one run directory.  ``seconds`` is
    what ``pipeline.json`` says at its end.  ``others`` are run directories there that the pipeline's last run did not
    name, and ``earlier`` are finished steps that it has not come to yet.
    """

    folder: Path
    title: str
    steps: tuple[Step, ...]
    single: bool
    listed: bool
    seconds: float | None
    others: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether the pipeline came to its end and every step is finished."""
        return (self.single or self.seconds is not None) and all(step.state is State.FINISHED for step in self.steps)

    @property
    def step_seconds(self) -> float:
        """The wall time of all finished steps together."""
        return sum(step.seconds or 0.0 for step in self.steps)


def read_record(folder: Path, readers: Readers) -> Record:
    """Read a pipeline's folder or a run directory.

    Args:
        folder: a pipeline's folder, or a run directory.
        readers: the readers of all known commands; a run of another command has no findings.

    Raises:
        BadInputError: no run is there, or one of its files is damaged.
    """
    folder = expanded(folder).absolute()
    if not folder.is_dir():
        raise BadInputError(f"a report needs the folder of a run: {folder} is none; give what --output named")
    if (folder / PIPELINE).is_file():
        return _listed(folder, readers)
    if (folder / RUN).is_file():
        step = read_step(folder, folder.name, readers)
        return Record(folder, folder.name, (step,), single=True, listed=False, seconds=step.seconds)
    steps = [read_step(folder / name, name, readers) for name in _run_directories(folder)]
    if not steps:
        raise BadInputError(
            f"a report needs the folder of a run: {folder} has neither {PIPELINE} nor run.json, nor a folder that has; "
            "give what --output named"
        )
    steps.sort(key=lambda step: step.started or 0.0)
    return Record(folder, folder.name, tuple(steps), single=False, listed=False, seconds=None)


def _listed(folder: Path, readers: Readers) -> Record:
    path = folder / PIPELINE
    data = read_json(path, "pipeline file")
    with well_formed(path, "pipeline file"):
        title, whole = str(data["title"]), data.get("seconds")
        seconds = None if whole is None else float(whole)
        named = {str(entry["name"]): str(entry["command"]) for entry in data["steps"]}
        reached = {str(entry["name"]) for entry in data["steps"] if entry.get("seconds") is not None}
    for name in named:
        if not _NAME.match(name):
            raise BadInputError(f"pipeline file {path}: step names are letters, digits, _ and -: got {name!r}")
    steps = tuple(
        read_step(folder / name, name, readers, command, State.MISSING if name in reached else State.WAITING)
        for name, command in named.items()
    )
    others = tuple(name for name in _run_directories(folder) if name not in named)
    # a rerun lists its steps again, and takes those that are finished as it comes to them
    earlier = tuple(s.name for s in steps if s.state is State.FINISHED and s.name not in reached)
    return Record(folder, title, steps, False, True, seconds, others, earlier)


def read_step(folder: Path, name: str, readers: Readers, command: str = "", absent: State = State.MISSING) -> Step:
    """Read a run directory, finished or not.

    Args:
        folder: the run directory.
        name: the name to show.
        readers: see :func:`read_record`.
        command: the command that the pipeline names, for a folder that is not there.
        absent: the state that such a folder means.

    Raises:
        BadInputError: a file is damaged.
    """
    if not (folder / RUN).is_file():
        return Step(name, command, folder, absent, {}, folder, {}, {})
    path = folder / RUN
    head = _object(path, "run file")
    with well_formed(path, "run file"):
        command = str(head["command"])
    config, written_at = _config(folder)
    reader = readers.get(command)
    step = Step(
        name,
        command,
        folder,
        State.UNFINISHED,
        config,
        written_at,
        environment=_object(folder / ENVIRONMENT, "environment file"),
        tracking=_object(folder / TRACKING, "tracking file"),
        started=_moment(path, "started"),
        recorded=recorded_lines(folder / reader.record[0]) if reader and reader.record else 0,
        so_far=reader.so_far(folder) if reader else None,
    )
    done = folder / RESULT
    if not done.is_file():
        return step
    with well_formed(done, "result file"):
        result = read_result(done)
        seconds = float(result["seconds"])
        findings = reader.findings(folder, result) if reader else None
    ended = _moment(done, "finished")
    return replace(step, state=State.FINISHED, seconds=seconds, ended=ended, findings=findings)


def _moment(path: Path, key: str) -> float:
    stated = read_moment(path, key)
    return path.stat().st_mtime if stated is None else stated


def _config(folder: Path) -> tuple[Mapping[str, Any], Path]:
    """Read the config, and where the folder was when it was written."""
    path = folder / CONFIG
    text = read_text(path, "config")
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInputError(f"config {path} cannot be read ({' '.join(str(error).split())}); restore it") from None
    if not isinstance(config, Mapping):
        raise BadInputError(f"config {path} must hold a mapping of keys: got {type(config).__name__}; restore it")
    _, found, place = text.partition("\n")[0].partition(" --config ")
    return config, Path(place).parent if found else folder


def _object(path: Path, what: str) -> Mapping[str, Any]:
    """Read a JSON object; it is empty where the file is missing, which these files may be."""
    if not path.is_file():
        return {}
    data = read_json(path, what)
    if not isinstance(data, Mapping):
        raise BadInputError(f"{what} {path} must hold a JSON object: got {type(data).__name__}; restore it")
    return data


def _run_directories(folder: Path) -> list[str]:
    # a name with a dot was moved aside (sp.1): it belongs to an earlier config
    found = (child for child in sorted(folder.iterdir()) if _NAME.match(child.name))
    return [child.name for child in found if (child / RUN).is_file()]
