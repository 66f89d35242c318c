"""Several bitmaps run on one batch in one optimizer step, and higher ones may teach lower ones.

For the bitmaps C = (Q_1 .. Q_N) of a step, sorted from high to low average width:

    L = w sum_i [ CE(Q_i) + beta sum_{j in T(i)} Dist(Q_i, stop-gradient(Q_j)) ],   w = 1/N

``spnet`` has no teachers. Cascade distillation (InstantNet, arXiv 2104.10853; docs/methods/objectives.md) takes all
higher bitmaps or the highest one; bitmaps of equal width never teach one another. The backward pass runs bitmap by
bitmap, since all graphs at once would need N times the memory; gradients add up in the shared parameters.  Distances
are summed over label rows, like the cross entropy, and divided by the same number of units.  The paper's weight 1/N is
the default; the official code sums, which is ``weight="sum"``. N counts the bitmaps of the step, so the first steps of
a curriculum are not smaller than its last ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch

from qalof.bitmap import Bitmap
from qalof.cost import average_bits
from qalof.errors import BadInputError
from qalof.site import Site
from qalof.tasks.base import loss_sum
from qalof.training.objectives.base import Hidden, Losses, Rows
from qalof.training.objectives.choices import AllBitmaps, Choice
from qalof.training.objectives.distillation import (
    Distillation,
    chosen_layers,
    contrastive_distance,
    distance,
    feature_distance,
)

Weight = Literal["mean", "sum"]
"""The factor w of the formula above: 1/N, or 1."""


class StepwisePrecision:
    """Runs the bitmaps that ``choice`` gives for each step; with ``distillation`` they form a cascade.

    ``seed`` draws the block whose hidden states are distilled, where the distillation draws one.
    """

    gradient_bits: int | None = None
    hooked: bool = False

    def __init__(
        self,
        choice: Choice,
        sites: Sequence[Site],
        distillation: Distillation | None = None,
        weight: Weight = "mean",
        seed: int = 0,
    ) -> None:
        self.choice, self.weighting, self.seed = choice, weight, seed
        self.distillation = distillation if distillation and distillation.teaches else None
        self._sites = tuple(sites)
        # every micro-batch of a step calls this again
        self._ordered = lru_cache(maxsize=2)(self._sorted)

    def bitmaps(self, step: int) -> Sequence[Bitmap]:
        """Return the choice at ``step``, from high to low."""
        return self._ordered(step)[0]

    def labels(self, step: int) -> Sequence[str]:
        """Return the bitmaps as text, or the names that the choice gives to those that it generates."""
        made_up = self.choice.made_up(step)
        return [made_up.get(bitmap, str(bitmap)) for bitmap in self.bitmaps(step)]

    def teachers(self, index: int, step: int = 0) -> list[int]:
        """Return the indices of those of :meth:`bitmaps` that teach bitmap ``index``."""
        if self.distillation is None:
            return []
        widths = self._ordered(step)[1]
        higher = [j for j in range(index) if widths[j] > widths[index]]
        return higher if self.distillation.teachers == "all_higher" else higher[:1]

    def accumulate(self, rows: Rows, step: int, units: float) -> Losses:
        """See :class:`~qalof.training.objectives.base.Objective`."""
        bitmaps = self.bitmaps(step)
        weight = 1 / len(bitmaps) if self.weighting == "mean" else 1.0
        taught: list[tuple[torch.Tensor, Hidden | None]] = []
        losses, optimized = [], []
        for index, bitmap in enumerate(bitmaps):
            logits, labels, hidden = self._run(rows, bitmap)
            cross_entropy = loss_sum(logits, labels) / units
            loss = cross_entropy
            teachers = [taught[j] for j in self.teachers(index, step)]
            if self.distillation is not None:
                if teachers:
                    loss = self.distillation.ce_weight * cross_entropy
                for teacher in teachers:
                    loss = loss + self._distance((logits, hidden), teacher, self.distillation, step) / units
                kept = None if hidden is None else _without_graph(hidden)
                taught.append((logits.detach(), kept))
            # a bitmap without an adapter (policy none) only teaches, as LLM-QAT's full-precision model does
            if loss.requires_grad:
                optimized.append((weight * loss).detach())
                (weight * loss).backward()
            losses.append(cross_entropy.detach())
        if not optimized:
            raise BadInputError(
                f"training needs a parameter to train: {', '.join(map(str, bitmaps))} run without any; "
                "add one of their widths to adapters.widths"
            )
        return Losses.of(losses, optimized)

    def _run(self, rows: Rows, bitmap: Bitmap) -> tuple[torch.Tensor, torch.Tensor, Hidden | None]:
        if self.distillation is not None and self.distillation.looks_inside:
            return rows.with_hidden(bitmap)
        return *rows(bitmap), None

    def _distance(
        self,
        student: tuple[torch.Tensor, Hidden | None],
        teacher: tuple[torch.Tensor, Hidden | None],
        how: Distillation,
        step: int,
    ) -> torch.Tensor:
        loss = how.beta * distance(student[0], teacher[0], how) if how.beta else student[0].new_zeros(())
        if student[1] is None or teacher[1] is None:
            return loss
        if how.feature_weight:
            layers = chosen_layers(how.features, len(student[1].layers), self.seed, step)
            loss = loss + how.feature_weight * feature_distance(student[1], teacher[1], layers)
        if how.contrastive_weight:
            loss = loss + how.contrastive_weight * contrastive_distance(student[1], teacher[1], how)
        return loss

    def _sorted(self, step: int) -> tuple[list[Bitmap], list[float]]:
        width = {bitmap: average_bits(bitmap, self._sites) for bitmap in self.choice.at(step)}
        ordered = sorted(width, key=lambda bitmap: -width[bitmap])
        return ordered, [width[bitmap] for bitmap in ordered]


class SwitchablePrecision(StepwisePrecision):
    """Runs all bitmaps on every batch; with ``distillation`` this is a cascade, without it spnet."""

    def __init__(
        self,
        bitmaps: Sequence[Bitmap],
        sites: Sequence[Site],
        distillation: Distillation | None = None,
        weight: Weight = "mean",
        seed: int = 0,
    ) -> None:
        super().__init__(AllBitmaps(tuple(bitmaps)), sites, distillation, weight, seed)


def _without_graph(hidden: Hidden) -> Hidden:
    return Hidden(tuple(state.detach() for state in hidden.layers), hidden.weights, hidden.answers)
