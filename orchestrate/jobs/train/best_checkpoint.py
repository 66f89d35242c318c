"""Which checkpoint of a training run is the best."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from orchestrate.config.build import parse_bitmaps, trained_widths
from orchestrate.config.train import TrainConfig
from orchestrate.jobs.train.validation import Scores
from qalof.bitmap import FULL_PRECISION, Bitmap
from qalof.errors import BadInputError
from qalof.metrics import described
from qalof.model.switchable import SwitchableModel
from qalof.tasks.base import Task
from search import Objective

TRAIN_LOSS = "train_loss"

SCORE = "score"
"""The name under which Ray sees a checkpoint's score, of which a higher one is always better."""

WORST = -sys.float_info.max


@dataclass(frozen=True)
class Watched:
    """What checkpoints are compared by: the mean of a metric over bitmaps, on the first ``limit`` examples."""

    objective: Objective
    bitmaps: tuple[Bitmap, ...]
    limit: int | None

    def measure(self, scores: Scores, losses: Sequence[float]) -> tuple[float | None, dict[str, float | None]]:
        """Score a checkpoint: the mean, negated where lower is better, and the value at each bitmap as it is.

        A mean that is not finite gives None.

        Args:
            scores: the scores of the model as it is; validation curves take theirs from the same.
            losses: the loss of each step since the checkpoint before, averaged over bitmaps, for ``train_loss``.
        """
        if self.objective.name == TRAIN_LOSS:
            values = [fmean(losses)]
            named: dict[str, float | None] = {}
        else:
            values = [metrics[self.objective.name] for metrics in scores.at(self.bitmaps, self.limit)]
            named = {str(b): v if math.isfinite(v) else None for b, v in zip(self.bitmaps, values, strict=True)}
        signed = self.signed(fmean(values))
        return (signed if math.isfinite(signed) else None), named

    def signed(self, value: float) -> float:
        """Turn a value into a score, or a score into a value."""
        return self.objective.sign * value


def watched(config: TrainConfig, model: SwitchableModel, task: Task) -> Watched | None:
    """Read what ``keep_best`` asks for; None where there is no such section.

    Raises:
        BadInputError: the task lacks the metric, or a bitmap does not fit the model.
    """
    wanted = config.keep_best
    if wanted is None:
        return None
    objective = Objective.parse(wanted.metric or task.primary_metric)
    if objective.is_cost:
        raise BadInputError(f"keep_best.metric must change in training: got the cost {objective}; max:f1 would do")
    measured = [name for name in task.metrics if not described(name).on_request]
    objective.check((*measured, TRAIN_LOSS))
    widths = trained_widths(model, config)
    specs = wanted.bitmaps or [width for width in widths if width != FULL_PRECISION] or widths
    limit = config.evaluation.limit if wanted.limit is None else wanted.limit
    return Watched(objective, tuple(parse_bitmaps(specs, model.sites)), limit)
