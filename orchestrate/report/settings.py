"""How a step is repeated, and its settings: commands, key settings, paths and addresses, cleaned for a page.

A report is passed on, so what it quotes is cleaned: paths are relative where they can be, a home folder is ``~``, and
an address loses its user, password and query.
"""

from __future__ import annotations

import os
import re
import shlex
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orchestrate.document.formats import shorter
from orchestrate.document.record import Record, State, Step
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.shared.compare import trained_by
from orchestrate.runs.layout import CONFIG
from orchestrate.runs.mlflow_store import database_of
from qalof.errors import BadInputError
from qalof.home import expanded

_URI = re.compile(r"\w[\w+.-]*://")
MOST_CONFIG, MOST_TEXT = 20_000, 300
"""The most characters of a config, and of one setting, that a page shows."""

_COMMON = (("Workers", "workers.count"), ("Accelerator", "workers.gpu"))


@dataclass(frozen=True)
class Places:
    """The folders from which paths are shown: ``page``, the page's folder, and ``start``, where the run was started, if
    known.
    """

    page: Path
    start: Path | None

    @classmethod
    def of(cls, record: Record, folder: Path | None = None) -> Places:
        """Find out where a run was started: ``tracking.root`` is relative to it, and the record's URI is absolute.

        Args:
            record: the run.
            folder: the page's folder; None stands for the run's own.
        """
        page = (folder or record.folder).resolve()
        for step in record.steps:
            start = _start_of(step)
            if (
                start is not None
                and step.written_at.resolve() == step.folder.resolve()
                and record.folder.resolve().is_relative_to(start)
            ):
                return cls(page, start)
        return cls(page, None)

    def show(self, path: Path) -> str:
        """Write a path from where commands are to be run, with ``~`` for a home folder."""
        whole = expanded(path).absolute()
        base = self.start or self.page
        near = (base, base.parent) if self.start is None else (base,)
        for folder in (whole, whole.resolve()):
            if any(folder.is_relative_to(place) for place in near):
                return os.path.relpath(folder, base)
        try:
            home = expanded("~")
        except BadInputError:  # there is none
            return str(whole)
        return f"~/{whole.relative_to(home)}" if whole.is_relative_to(home) else str(whole)

    def link(self, path: Path) -> str:
        """Make a relative reference from the page to a file of a run."""
        return urllib.parse.quote(Path(os.path.relpath(path.resolve(), self.page)).as_posix())

    def clean(self, value: Any) -> Any:
        """Clean the paths and addresses in a config's value."""
        if isinstance(value, Mapping):
            return {str(key): self.clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.clean(item) for item in value]
        if not isinstance(value, str):
            return value
        if _URI.match(value):
            return without_secrets(value)
        return self.show(Path(value)) if value.startswith("/") else value


def _start_of(step: Step) -> Path | None:
    database, configured = database_of(str(step.tracking.get("uri", ""))), step.config.get("tracking", {}).get("root")
    if database is None or not configured or Path(configured).is_absolute():
        return None
    root = database.parent
    parts = Path(os.path.normpath(configured)).parts
    if root.parts[-len(parts) :] != parts:
        return None
    return Path(*root.parts[: -len(parts)]).resolve()


def without_secrets(uri: str) -> str:
    """Take user, password, query and fragment out of an address."""
    parts = urllib.parse.urlsplit(uri)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def command_line(step: Step, places: Places) -> str | None:
    """Write the command that repeats a finished step in a new folder, or goes on with an unfinished one."""
    if step.state in (State.MISSING, State.WAITING):
        return None
    again = step.folder.with_name(f"{step.folder.name}-again") if step.state is State.FINISHED else step.folder
    words = ["qalof", step.command, "--config", places.show(step.folder / CONFIG)]
    return shlex.join([*words, "--output", places.show(again)])


def mlflow_root(record: Record, places: Places) -> str | None:
    """Return the ``--root`` of ``qalof ui``; None where the record is on a server."""
    for step in record.steps:
        if (database := database_of(str(step.tracking.get("uri", "")))) is not None:
            return places.show(database.parent)
    return None


def key_settings(record: Record, step: Step, places: Places) -> list[tuple[str, str]]:
    """List label and text of the settings that decide what a step found; what is not set is left out."""
    rows = []
    own = JOBS[step.command].settings if step.command in JOBS else ()
    for label, key in (*own, *_COMMON):
        value: Any = step.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if label in ("Validation examples", "Texts") and value is None and step.config:
            value = "all"
        if key == "checkpoint" and (maker := trained_by(record, step)) is not None:
            value = f"of step {maker.name}"
        if value is not None and value is not False and value not in ({}, []):
            rows.append((label, shorter(_text(places.clean(value)), MOST_TEXT)))
    return rows


def whole_config(step: Step, places: Places) -> str:
    """Write the resolved config in YAML, cleaned; one that is too long for a page ends with a pointer to the file."""
    text = yaml.safe_dump(places.clean(step.config), sort_keys=False, allow_unicode=True, width=100)
    return text if len(text) <= MOST_CONFIG else f"{text[:MOST_CONFIG]}\n# ... the rest is in config.yaml\n"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        named = {"name": ""}  # the name of a section goes first, bare
        parts = [
            f"{named.get(key, key.replace('_', ' '))} {_text(item)}".strip()
            for key, item in value.items()
            if item not in (None, {})
        ]
        return "; ".join(parts)
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
