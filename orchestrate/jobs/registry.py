"""All jobs by name; a new command costs one folder and one line here."""

from __future__ import annotations

from collections import UserDict
from importlib import import_module
from typing import Any

from orchestrate.jobs.base import Job


class Registry(UserDict[str, Any]):
    """Jobs by name, or the class of a job as ``folder.Class``, whose folder is one of ``orchestrate/jobs``.

    The module of a job is imported when the job is first asked for: each brings libraries that the others do without,
    and a command waits for its own alone.
    """

    def __getitem__(self, name: str) -> Job[Any, Any]:
        found = self.data[name]
        if isinstance(found, str):
            folder, kind = found.split(".")
            found = self.data[name] = getattr(import_module(f"orchestrate.jobs.{folder}.job"), kind)()
        job: Job[Any, Any] = found
        return job


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
