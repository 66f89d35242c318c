"""``train`` as a job: training, then scores of what was trained."""

from __future__ import annotations

from orchestrate.config.build import parse_bitmaps, trained_widths
from orchestrate.config.train import TrainConfig
from orchestrate.jobs.base import Result
from orchestrate.jobs.shared.scores import evaluate_bitmaps, per_example, rows
from orchestrate.jobs.train import job as train_job
from orchestrate.jobs.train.losses import LOSSES, training_loss
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.mlflow_tracker import Run
from qalof.files import write_json


def train_and_score(config: TrainConfig, parts: train_job.Parts, directory: RunDirectory, run: Run) -> Result:
    """Train, then score every width that was trained, or the bitmaps that the config names."""
    trained = train_job.train(config, parts, directory, run)
    checkpoint = trained.checkpoint
    wanted = config.evaluation.bitmaps
    specs = wanted if wanted is not None else list(trained_widths(parts.model, config))
    bitmaps = parse_bitmaps(specs, parts.model.sites)
    # on Ray the driver's own model is as it was before training, and has no learned steps and observed ranges
    parts.model.load_parameters(checkpoint)
    sites, rest = parts.model.sites, parts.model.rest
    scored = evaluate_bitmaps(checkpoint, sites, bitmaps, config.evaluation.limit, config.workers, run, rest=rest)
    write_json(directory.path / "evaluations.json", per_example(bitmaps, scored))
    return {
        "checkpoint": str(checkpoint),
        "task": config.task.name,
        "objective": config.objective.name,
        "steps": config.training.steps,
        "training_data": parts.task.train_counts(),
        "training_loss": training_loss(directory.path / LOSSES, config.training.steps),
        "best": trained.best,
        "rows": rows(bitmaps, scored, sites, rest),
    }


def check_train(config: TrainConfig) -> train_job.Parts:
    """Build everything that training needs.

    Raises:
        BadInputError: whatever training, or scoring afterwards, would refuse.
    """
    parts = train_job.check(config)
    parse_bitmaps(config.evaluation.bitmaps or [], parts.model.sites)
    return parts
