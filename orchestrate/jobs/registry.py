"""All jobs by name; a new command costs one folder and one line here."""

from __future__ import annotations

from typing import Any

from orchestrate.jobs.attack.job import AttackJob
from orchestrate.jobs.base import Job
from orchestrate.jobs.evaluate.job import EvaluateJob
from orchestrate.jobs.export.job import ExportJob
from orchestrate.jobs.generate_data.job import GenerateJob
from orchestrate.jobs.profile.job import ProfileJob
from orchestrate.jobs.ptq.job import PtqJob
from orchestrate.jobs.range_test.job import RangeTestJob
from orchestrate.jobs.search.job import SearchJob
from orchestrate.jobs.sensitivity.job import SensitivityJob
from orchestrate.jobs.sweep.job import SweepJob
from orchestrate.jobs.train.job import TrainJob

JOBS: dict[str, Job[Any, Any]] = {
    job.name: job
    for job in (
        TrainJob(),
        EvaluateJob(),
        SensitivityJob(),
        SearchJob(),
        RangeTestJob(),
        AttackJob(),
        PtqJob(),
        ProfileJob(),
        GenerateJob(),
        SweepJob(),
        ExportJob(),
    )
}
