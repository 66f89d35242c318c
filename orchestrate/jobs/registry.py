"""All jobs by name; a new command costs one folder and one line here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any

from orchestrate.jobs.base import Job


class Registry(MutableMapping[str, Job[Any, Any]]):
    """Jobs by name.

    The module of a job is imported when the job is first asked for: each brings libraries that the others do without,
    and a command waits for its own alone.

    Args:
        places: the class of each job as ``folder.Class``, by name; its folder is one of ``orchestrate/jobs``.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self._jobs: dict[str, Job[Any, Any] | str] = dict(places)

    def __getitem__(self, name: str) -> Job[Any, Any]:
        found = self._jobs[name]
        if isinstance(found, str):
            folder, kind = found.split(".")
            found = self._jobs[name] = getattr(import_module(f"orchestrate.jobs.{folder}.job"), kind)()
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._jobs

    def __setitem__(self, name: str, job: Job[Any, Any]) -> None:
        self._jobs[name] = job

    def __delitem__(self, name: str) -> None:
        del self._jobs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)


JOBS = Registry(
    {
        "train": "train.TrainJob",
        "evaluate": "evaluate.EvaluateJob",
        "sensitivity": "sensitivity.SensitivityJob",
        "search": "search.SearchJob",
        "range-test": "range_test.RangeTestJob",
        "attack": "attack.AttackJob",
        "ptq": "ptq.PtqJob",
        "profile": "profile.ProfileJob",
        "generate-data": "generate_data.GenerateJob",
        "sweep": "sweep.SweepJob",
        "export": "export.ExportJob",
    }
)
