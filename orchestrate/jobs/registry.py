"""All jobs by name."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrate.config.train import TrainConfig
from orchestrate.jobs.attack import job as attack_job
from orchestrate.jobs.attack.config import AttackConfig
from orchestrate.jobs.base import Job
from orchestrate.jobs.evaluate.config import EvaluateConfig
from orchestrate.jobs.evaluate.job import check_evaluate, evaluate
from orchestrate.jobs.generate_data import job as generate_job
from orchestrate.jobs.profile import job as footprint_job
from orchestrate.jobs.ptq import job as baselines_job
from orchestrate.jobs.ptq.config import BaselinesConfig
from orchestrate.jobs.range_test import job as range_test_job
from orchestrate.jobs.search.config import SearchConfig
from orchestrate.jobs.search.job import check_search, search
from orchestrate.jobs.sensitivity.config import SensitivityConfig
from orchestrate.jobs.sensitivity.job import check_sensitivity, sensitivity
from orchestrate.jobs.sweep import job as sweep_job
from orchestrate.jobs.sweep.config import SweepConfig
from orchestrate.jobs.sweep.plan import sweep_configs
from orchestrate.jobs.train.command import check_train, train_and_score

JOBS: Mapping[str, Job] = {
    "train": Job(TrainConfig, check_train, train_and_score),
    "evaluate": Job(EvaluateConfig, check_evaluate, evaluate),
    "sensitivity": Job(SensitivityConfig, check_sensitivity, sensitivity),
    "search": Job(SearchConfig, check_search, search),
    "range-test": Job(range_test_job.RangeTestConfig, range_test_job.check, range_test_job.range_test),
    "attack": Job(AttackConfig, attack_job.check, attack_job.work),
    "baselines": Job(BaselinesConfig, baselines_job.check, baselines_job.work),
    "footprint": Job(footprint_job.FootprintConfig, footprint_job.check, footprint_job.work),
    "generate-data": Job(generate_job.GenerateConfig, generate_job.check, generate_job.work),
    "sweep": Job(SweepConfig, sweep_job.check, sweep_job.sweep, sweep_configs),
}
