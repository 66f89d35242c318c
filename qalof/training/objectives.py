"""Training objectives: what a step runs and what it minimises (algorithms.md 3 and 4).

For bitmaps C = (Q_1 .. Q_N), sorted from high to low average width, one batch and one optimizer step:

    L = w sum_i [ CE(Q_i) + beta sum_{j in T(i)} Dist(Q_i, stop-gradient(Q_j)) ],   w = 1/N

``spnet`` has no teachers, cascade distillation (InstantNet, arXiv 2104.10853) takes all higher bitmaps or the highest;
bitmaps of equal width never teach one another.  The backward pass runs bitmap by bitmap, since all
graphs at once would need N times the memory; gradients add up in the shared parameters.  Distances are summed over
label rows, like the cross entropy, and divided by the same number of units.  The paper's weight 1/N is the
default; the official code sums, which is ``weight="sum"``.

CPT runs one width a step, a pure function of the step's number, so that all workers agree without talking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch.nn import functional

from qalof.bitmap import Bitmap
from qalof.cost import cost_of
from qalof.errors import BadInputError
from qalof.model.sites import Site
from qalof.tasks.base import loss_sum
from qalof.training.precision_schedule import CyclicPrecision

Rows = Callable[[Bitmap], tuple[torch.Tensor, torch.Tensor]]
"""Runs the model on the current batch at a bitmap: logits (units, classes) and labels (units,)."""

Distance = Literal["kl", "mse"]


class Objective(Protocol):
    """Accumulates gradients of one batch."""

    def bitmaps(self, step: int) -> Sequence[Bitmap]:
        """What runs at ``step``, from high to low width; the same on every worker."""
        ...

    def accumulate(self, rows: Rows, step: int, units: float) -> list[torch.Tensor]:
        """Backward of this batch's share of the loss.

        Args:
            rows: see :data:`Rows`.
            step: counted from 0.
            units: label rows of the whole global batch.

        Returns:
            This share of the cross entropy of each of :meth:`bitmaps`, detached scalars.
        """
        ...


@dataclass(frozen=True)
class Distillation:
    """How lower bitmaps learn from higher ones: ``beta`` weighs, ``temperature`` is KL's tau."""

    beta: float = 1.0
    distance: Distance = "kl"
    teachers: Literal["all_higher", "highest"] = "all_higher"
    temperature: float = 1.0


class SwitchablePrecision:
    """All bitmaps on every batch; with ``distillation`` a cascade, without it spnet."""

    def __init__(
        self,
        bitmaps: Sequence[Bitmap],
        sites: Sequence[Site],
        distillation: Distillation | None = None,
        weight: Literal["mean", "sum"] = "mean",
    ) -> None:
        if not bitmaps or len(set(bitmaps)) != len(bitmaps):
            raise BadInputError(
                f"switchable precision needs one or more different bitmaps: got {[str(b) for b in bitmaps]}"
            )
        width = {bitmap: cost_of(bitmap, sites).average_bits for bitmap in bitmaps}
        self._bitmaps = sorted(bitmaps, key=lambda bitmap: -width[bitmap])
        self._widths = [width[bitmap] for bitmap in self._bitmaps]
        self.distillation = distillation if distillation and distillation.beta else None
        self.weight = 1 / len(self._bitmaps) if weight == "mean" else 1.0

    def bitmaps(self, step: int) -> Sequence[Bitmap]:
        """All of them, at every step."""
        return self._bitmaps

    def teachers(self, index: int) -> list[int]:
        """Indices of the bitmaps that teach bitmap ``index``."""
        higher = [j for j in range(index) if self._widths[j] > self._widths[index]]
        if self.distillation is None:
            return []
        return higher if self.distillation.teachers == "all_higher" else higher[:1]

    def accumulate(self, rows: Rows, step: int, units: float) -> list[torch.Tensor]:
        """See :class:`Objective`."""
        taught: list[torch.Tensor] = []
        losses = []
        for index, bitmap in enumerate(self._bitmaps):
            logits, labels = rows(bitmap)
            cross_entropy = loss_sum(logits, labels) / units
            loss = cross_entropy
            if self.distillation is not None:
                for teacher in self.teachers(index):
                    loss = loss + self.distillation.beta * distance(logits, taught[teacher], self.distillation) / units
                taught.append(logits.detach())
            (self.weight * loss).backward()
            losses.append(cross_entropy.detach())
        return losses


class CyclicPrecisionTraining:
    """One width a step, up and down in cycles."""

    def __init__(self, sites: Sequence[Site], schedule: CyclicPrecision) -> None:
        names = [site.name for site in sites]
        self.schedule = schedule
        self._uniform = {bits: Bitmap.uniform(names, bits) for bits in schedule.widths}

    def bitmaps(self, step: int) -> Sequence[Bitmap]:
        """The one of this step."""
        return [self._uniform[self.schedule.bits(step)]]

    def accumulate(self, rows: Rows, step: int, units: float) -> list[torch.Tensor]:
        """See :class:`Objective`."""
        (bitmap,) = self.bitmaps(step)
        loss = loss_sum(*rows(bitmap)) / units
        loss.backward()
        return [loss.detach()]


def distance(student: torch.Tensor, teacher: torch.Tensor, how: Distillation) -> torch.Tensor:
    """Distance of two rows of logits, (units, classes) each, summed over the rows.

    ``kl``: tau^2 KL(softmax(teacher/tau) || softmax(student/tau)).  ``mse``: mean squared difference over the
    possible classes, each row's mean taken out first, since logits are free up to a constant.
    """
    if how.distance == "kl":
        tau = how.temperature
        log_student = functional.log_softmax(student / tau, dim=-1)
        log_teacher = functional.log_softmax(teacher / tau, dim=-1)
        return tau**2 * functional.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    possible = teacher > torch.finfo(teacher.dtype).min
    count = possible.sum(dim=-1, keepdim=True)
    difference = torch.where(possible, student - teacher, 0.0)
    centred = torch.where(possible, difference - difference.sum(dim=-1, keepdim=True) / count, 0.0)
    return (centred.square() / count).sum()
