"""The steps of a training, wherever it runs, and how they are recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from orchestrate.jobs.train.best_checkpoint import Watched
from orchestrate.jobs.train.validation import Curves, Scores, Validation
from qalof.bitmap_names import short_name
from qalof.training.loop import StepMetrics, Trainer

Post = StepMetrics | Validation
"""What a worker reports of a step: its losses, or scores after it."""


def run_steps(
    trainer: Trainer,
    seen: Watched | None,
    curves: Curves | None,
    on_post: Callable[[Post], None],
    on_checkpoint: Callable[[Sequence[Post], float | None], None],
) -> None:
    """Train to the end.

    Args:
        trainer: the trainer, at any step.
        seen: scores each checkpoint, where it is given.
        curves: says what else is scored in the middle of training, where it is given.
        on_post: takes each step's metrics, and scores.
        on_checkpoint: takes all that was posted since the checkpoint before, and the score, which is None where none is
            asked for or it is not finite.

    Raises:
        NonFiniteLossError: the loss is not finite.
    """
    posts: list[Post] = []
    steps, every = trainer.settings.steps, trainer.settings.checkpoint_every

    def post(what: Post) -> None:
        posts.append(what)
        on_post(what)

    while trainer.step < steps:
        post(trainer.train_step())
        scores = Scores(trainer.model, trainer.task, trainer.world)
        if curves is not None and curves.at(trainer.step, steps):
            post(curves.measure(trainer.step, scores))
        if trainer.step % every == 0 or trainer.step == steps:
            losses = [fmean(each.losses.values()) for each in posts if isinstance(each, StepMetrics)]
            score = seen.measure(scores, losses)[0] if seen else None
            on_checkpoint(list(posts), score)
            posts.clear()


def parted(posts: Iterable[Post]) -> tuple[list[StepMetrics], list[Validation]]:
    """Part the metrics of steps from scores, each in the order of ``posts``."""
    known = list(posts)
    steps = [each for each in known if isinstance(each, StepMetrics)]
    return steps, [each for each in known if isinstance(each, Validation)]


def as_metrics(done: StepMetrics) -> dict[str, float]:
    """Return a step's losses and learning rate, under the names that the record has."""
    # MLflow cuts long names, and two bitmaps that begin alike would be one metric
    losses = {f"train.loss.{short_name(bitmap).lstrip('#')}": loss for bitmap, loss in done.losses.items()}
    optimized = {} if done.objective is None else {"train.objective": done.objective}
    return {"train.learning_rate": done.learning_rate, **optimized, **losses}
