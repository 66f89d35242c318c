"""A job: everything that the house asks of a command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrate.config.base import Section
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.inputs import input_digests
from orchestrate.runs.mlflow_tracker import Run

Result = dict[str, Any]

TRACKING = "tracking.json"
"""Which MLflow run is this directory's, so that a run that goes on stays one run."""


@dataclass(frozen=True)
class Job:
    """``check(config)`` finds bad input and returns what ``work(config, checked, directory, run)`` needs."""

    config: type[Section]
    check: Callable[[Any], Any]
    work: Callable[[Any, Any, RunDirectory, Run], Result]

    stands_for: Callable[[Any], Mapping[str, Section]] = lambda config: {"": config}
    """The configs whose inputs the result depends on, by the beginning of their keys; several for a sweep."""

    def inputs(self, config: Section) -> dict[str, str]:
        """Digests, by key, of the files and folders that the result depends on."""
        return input_digests(self.stands_for(config))
