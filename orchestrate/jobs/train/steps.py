"""The steps of a training, wherever it runs, and how they are recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from orchestrate.jobs.train.best_checkpoint import Watched
from qalof.bitmap_names import short_name
from qalof.training.loop import StepMetrics, Trainer


def run_steps(
    trainer: Trainer,
    seen: Watched | None,
    on_step: Callable[[StepMetrics], None],
    on_checkpoint: Callable[[Sequence[StepMetrics], float | None], None],
) -> None:
    """Train to the end.

    Args:
        trainer: the trainer, at any step.
        seen: scores each checkpoint, where it is given.
        on_step: takes each step's metrics.
        on_checkpoint: takes the metrics since the checkpoint before, and the score, which is None where none is asked
            for or it is not finite.

    Raises:
        NonFiniteLossError: the loss is not finite.
    """
    posts: list[StepMetrics] = []
    steps, every = trainer.settings.steps, trainer.settings.checkpoint_every
    while trainer.step < steps:
        posts.append(trainer.train_step())
        on_step(posts[-1])
        if trainer.step % every == 0 or trainer.step == steps:
            losses = [fmean(post.losses.values()) for post in posts]
            score = seen.measure(trainer.model, trainer.task, trainer.world, losses)[0] if seen else None
            on_checkpoint(posts, score)
            posts = []


def as_metrics(done: StepMetrics) -> dict[str, float]:
    """A step's losses and learning rate, under the names that the record has."""
    # MLflow cuts long names, and two bitmaps that begin alike would be one metric
    losses = {f"train.loss.{short_name(bitmap).lstrip('#')}": loss for bitmap, loss in done.losses.items()}
    optimized = {} if done.objective is None else {"train.objective": done.objective}
    return {"train.learning_rate": done.learning_rate, **optimized, **losses}
