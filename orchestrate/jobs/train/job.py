"""``train`` as a job: training, then scores of what was trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrate.config.build import make_objective, parse_bitmaps, trained_bitmaps, trained_widths
from orchestrate.config.train import TrainConfig
from orchestrate.document.blocks import Block, Plot
from orchestrate.document.cell import Cell
from orchestrate.document.estimate import (
    Estimate,
    answer_tokens,
    examples_of,
    forward,
    learned,
    parameters_of,
    sequence_tokens,
    sites_of,
    training_passes,
)
from orchestrate.document.formats import count_of
from orchestrate.document.planned_step import PlannedStep, bitmap_specs
from orchestrate.document.record import Record, Step
from orchestrate.document.table_config import Place
from orchestrate.jobs.base import Offer, Result
from orchestrate.jobs.shared.findings import scored_of
from orchestrate.jobs.shared.job import ScoreJob
from orchestrate.jobs.shared.scores import evaluate_bitmaps, per_example, rows
from orchestrate.jobs.train import fit
from orchestrate.jobs.train.best_checkpoint import TRAIN_LOSS
from orchestrate.jobs.train.curves import LossCurve, read_losses
from orchestrate.jobs.train.losses import training_loss
from orchestrate.jobs.train.validation import Validation, read_validation
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import CHECKPOINT, EVALUATIONS, LOSSES, VALIDATION, VALIDATION_PICTURE
from orchestrate.runs.mlflow_tracker import Run
from qalof.checkpoint.model import copy_parameters
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.files import write_json
from qalof.model.adapters import adapter_parameters


def train_and_score(config: TrainConfig, parts: fit.TrainComponents, directory: RunDirectory, run: Run) -> Result:
    """Train, then score every width that was trained, or the bitmaps that the config names."""
    trained = fit.train(config, parts, directory, run)
    _record_curves(directory, run)
    checkpoint = trained.checkpoint
    if config.training.full_finetune:
        run.set_tags({"checkpoint": str(checkpoint)})  # a whole model is too large to lie in two places
    else:
        run.artifact(checkpoint, CHECKPOINT)
    wanted = config.evaluation.bitmaps
    specs = wanted if wanted is not None else list(trained_widths(parts.model, config))
    bitmaps = parse_bitmaps(specs, parts.model.sites)
    # on Ray the driver's own model is as it was before training, without learned steps and observed ranges
    opened = OpenCheckpoint(checkpoint)
    copy_parameters(parts.model, opened.described)
    sites, rest = parts.model.sites, parts.model.rest
    scored = evaluate_bitmaps(opened, sites, bitmaps, config.evaluation.limit, config.workers, run, rest)
    write_json(directory.path / EVALUATIONS, per_example(bitmaps, scored))
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


def _record_curves(directory: RunDirectory, run: Run) -> None:
    """Put the losses into the record, and the validation curves with a picture of them, where there are any."""
    run.artifact(directory.path / LOSSES)
    scored = read_validation(directory.path / VALIDATION)
    if not scored:
        return
    from orchestrate.jobs.train.validation_plot import write_picture

    run.artifact(directory.path / VALIDATION)
    if write_picture(directory.path / VALIDATION_PICTURE, scored):
        run.artifact(directory.path / VALIDATION_PICTURE)


def check_train(config: TrainConfig) -> fit.TrainComponents:
    """Build everything that training needs.

    Raises:
        BadInputError: whatever training, or scoring afterwards, would refuse.
    """
    parts = fit.check(config)
    parse_bitmaps(config.evaluation.bitmaps or [], parts.model.sites)
    return parts


@dataclass(frozen=True)
class TrainingCurves:
    """What a run of ``train`` holds while it goes: losses of steps, and scores in the middle of training."""

    losses: tuple[LossCurve, ...] = ()
    validation: tuple[Validation, ...] = ()


OBJECTIVES = {
    "static": "plain quantization-aware training at one bitmap",
    "spnet": "switchable precision (all bitmaps on every batch)",
    "cascade": "switchable precision with cascade distillation",
    "cpt": "cyclic precision training (one width per step)",
}


def scored_in_the_middle(config: TrainConfig) -> int:
    """Return how many examples are scored, at any bitmap, before training ends: for validation curves, and to keep the
    best.

    Raises:
        BadInputError: the model's sizes cannot be had.
    """
    training, sets = config.training, list[tuple[int, set[tuple[str, int]]]]()
    asked = ((config.validation.evaluate_every, config.validation), (training.checkpoint_every, config.keep_best))
    for every, wanted in asked:
        if every and wanted is not None and not str(getattr(wanted, "metric", "")).endswith(TRAIN_LOSS):
            limit = config.evaluation.limit if wanted.limit is None else wanted.limit
            examples = examples_of(config.task, limit)
            specs = wanted.bitmaps or trained_bitmaps(config, sites_of(config))
            sets.append((every, {(str(spec), examples) for spec in specs}))
    at = (
        set[tuple[str, int]]().union(*(one for every, one in sets if step % every == 0 or step == training.steps))
        for step in range(1, training.steps + 1)
    )
    return sum(examples for scored in at for _, examples in scored)


def steps_estimated(config: TrainConfig) -> Estimate:
    """Count the passes of training, and those of the scores in the middle of it.

    Raises:
        BadInputError: the model's sizes cannot be had.
    """
    training = config.training
    objective = make_objective(config.objective, sites_of(config), training.steps, training.seed)
    passes = training_passes(config, objective) * training.batch_size
    return learned(passes, config) + scoring(config, scored_in_the_middle(config))


def scoring(config: TrainConfig, examples: int) -> Estimate:
    """Count the passes of so many scored examples."""
    return forward(examples, sequence_tokens(config.task) + answer_tokens(config.task), parameters_of(config))


class TrainJob(ScoreJob[TrainConfig, fit.TrainComponents]):
    """``qalof train``."""

    name = "train"
    config = TrainConfig
    shareable = True
    settings = (
        ("Model", "model.source"),
        ("Task", "task.name"),
        ("Data", "task.settings.data"),
        ("Objective", "objective"),
        ("Adapter rank", "adapters.rank"),
        ("Adapter alpha", "adapters.alpha"),
        ("Steps", "training.steps"),
        ("Batch size", "training.batch_size"),
        ("Learning rate", "training.learning_rate"),
        ("Schedule", "training.schedule"),
        ("Seed", "training.seed"),
        ("Validation examples", "evaluation.limit"),
    )

    def check(self, config: TrainConfig) -> fit.TrainComponents:
        """Build everything that training needs."""
        return check_train(config)

    def work(self, config: TrainConfig, checked: fit.TrainComponents, directory: RunDirectory, run: Run) -> Result:
        """Train, then score."""
        return train_and_score(config, checked, directory, run)

    def method(self, config: TrainConfig) -> str:
        """Name the objective."""
        return config.objective.name

    def describe(self, config: TrainConfig, check: bool) -> str:
        """Describe the training in a line, and where it is checked, its model, adapters, data and passes too."""
        return describe_training(config, self.check(config) if check else None)

    def estimate(self, step: PlannedStep, trained: TrainConfig | None) -> Estimate:
        """Count the passes of training, and those of the scores afterwards."""
        config = step.config
        assert isinstance(config, TrainConfig)
        evaluated = examples_of(config.task, config.evaluation.limit) * (len(bitmap_specs(step)) or 1)
        return steps_estimated(config) + scoring(config, evaluated)

    def so_far(self, folder: Path) -> TrainingCurves:
        """Read the losses and the scores, as far as training came."""
        return TrainingCurves(read_losses(folder), read_validation(folder / VALIDATION))

    def lead(self, step: Step) -> str:
        """Name the objective and the task, and say how much was trained."""
        found, config = scored_of(step), step.config
        if found is None:
            return ""
        training, workers = config.get("training", {}), config.get("workers", {}).get("count", 1)
        objective = str(config.get("objective", {}).get("name", "an unnamed objective"))
        return (
            f"Fine-tuning by {OBJECTIVES.get(objective, objective)} on {found.task}: "
            f"{count_of(training.get('steps', 0), 'step')} of {training.get('batch_size')} sequences, "
            f"shared by {count_of(workers, 'worker')}."
        )

    def section(self, record: Record, step: Step, prefix: str) -> list[Block]:
        """Show the losses and validation scores, finished or not, and the scores of the end."""
        from orchestrate.jobs.train.loss_plot import loss_blocks
        from orchestrate.jobs.train.validation_plot import validation_blocks

        found, finished = step.so_far or TrainingCurves(), step.findings is not None
        losses = loss_blocks(found.losses, prefix, finished)
        curves = validation_blocks(found.validation, prefix, finished)
        return [*losses, *curves, *super().section(record, step, prefix)]

    def pictures(self, folder: Path, result: Mapping[str, Any]) -> list[Plot]:
        """Draw the learning curves."""
        from orchestrate.jobs.train.loss_plot import loss_blocks

        return loss_blocks(read_losses(folder), "picture", True)

    def offers(self, step: PlannedStep, of: str, metrics: Callable[[], Sequence[str]]) -> Offer:
        """Offer scores at bitmaps, losses and counts of parameters."""
        from orchestrate.jobs.train.cells import OF_TRAINING, PARAMETERS

        own = {"training": OF_TRAINING, "parameters": PARAMETERS}
        return (None, own[of]) if of in own else super().offers(step, of, metrics)

    def cell(self, place: Place, step: PlannedStep) -> Cell:
        """Read a score, a loss or a count of parameters."""
        from orchestrate.jobs.train.cells import parameters_cell, training_loss_cell

        own = {"training": training_loss_cell, "parameters": parameters_cell}
        return own.get(place.of, super().cell)(place, step)


def describe_training(config: TrainConfig, parts: fit.TrainComponents | None = None) -> str:
    """Describe a training in a line; given its ``parts``, add lines on its model, adapters, data and passes."""
    training, workers = config.training, config.workers.count
    line = (
        f"train: {config.objective.name} on {config.task.name}, {training.steps} steps "
        f"of {training.batch_size} sequences on {count_of(workers, 'worker')}"
    )
    if parts is None:
        return line
    runs = training_passes(config, parts.objective)
    examples, drawn = len(parts.task.train_features()), training.steps * training.batch_size
    passes = f"{drawn / examples:.1f} passes" if drawn >= examples else f"of which {drawn:,} are used"
    model = parts.model.model
    adapters = {name: sum(p.numel() for p in adapter_parameters(model, name).values()) for name in parts.model.adapters}
    return "\n".join(
        [
            line,
            f"  model {config.model.source}: {sum(p.numel() for p in model.parameters()):,} parameters with adapters, "
            f"{len(parts.model.sites)} sites",
            f"  adapters: {', '.join(f'{name} with {count:,} parameters' for name, count in adapters.items())}",
            f"  data: {examples:,} training examples, {passes}",
            f"  cost: {runs:,} forward and backward passes of {training.batch_size} sequences, "
            f"{training.batch_size // workers} per worker",
        ]
    )
