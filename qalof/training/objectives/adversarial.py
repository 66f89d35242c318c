"""Training on attacked embeddings: RPT's adversarial step (Double-Win Quant, Fu et al., ICML 2021;
docs/methods/random_precision.md, "Training for it").

Double-Win Quant trains an image classifier on PGD examples, with attack and update at the same width, which every
iteration draws again. The counterpart of pixels in a text is the embeddings of its tokens: a shift d (sequences,
tokens, features) is added to them before the first block,

    d_0 = 0,   d_(k+1) = clamp(d_k + a sign(gradient of the loss at d_k), -e, e)

with e = ``epsilon`` times the root mean square of the embedding table, which does not depend on the batch.  One step is
FGSM, more are PGD. It starts at zero, not at a random point: then the first pass is the clean one, whose cross entropy
is recorded, and nothing need be drawn. The sign of a sequence's gradient does not depend on the rest of the batch, so
workers and micro-batches may be split in any way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch

from qalof.bitmap import Bitmap
from qalof.laws import Count, Law, Positive, check_numbers
from qalof.site import Site
from qalof.tasks.base import loss_sum
from qalof.training.objectives.base import Losses, Rows
from qalof.training.objectives.choices import Choice
from qalof.training.objectives.switchable import StepwisePrecision, Weight


@dataclass(frozen=True)
class EmbeddingAttack:
    """How far embeddings are shifted, and in how many steps."""

    epsilon: Positive = 0.1
    """The greatest shift of a feature, relative to the embeddings' root mean square."""
    steps: Count = 1
    """How many steps the attack takes; 1 is FGSM, more are PGD."""
    step_size: Annotated[float, Law(gt=0, off="null takes 2.5 epsilon / steps")] | None = None
    """The shift of one step, relative to the embeddings' root mean square; null takes epsilon for a single step, and
    otherwise 2.5 epsilon / steps."""
    share: Annotated[float, Law(gt=0, le=1)] = 1.0
    """The share of the attacked loss in what is learned; the rest is the clean loss."""

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def stride(self) -> float:
        """The step size that is used."""
        if self.step_size is not None:
            return self.step_size
        return self.epsilon if self.steps == 1 else 2.5 * self.epsilon / self.steps


class AdversarialPrecision(StepwisePrecision):
    """Each bitmap of the step learns the labels of embeddings that were attacked at that very bitmap."""

    hooked: bool = True

    def __init__(
        self,
        choice: Choice,
        sites: Sequence[Site],
        attack: EmbeddingAttack,
        weight: Weight = "mean",
        seed: int = 0,
    ) -> None:
        super().__init__(choice, sites, None, weight, seed)
        self.attack = attack

    def accumulate(self, rows: Rows, step: int, units: float) -> Losses:
        """Accumulate as every :class:`~qalof.training.objectives.base.Objective`; the losses are those of clean
        embeddings.
        """
        bitmaps = self.bitmaps(step)
        weight = 1 / len(bitmaps) if self.weighting == "mean" else 1.0
        losses, optimized = [], []
        for bitmap in bitmaps:
            shift, clean = self.shift(rows, bitmap)
            loss = self.attack.share * loss_sum(*rows.shifted(bitmap, shift))
            if self.attack.share < 1:
                loss = loss + (1 - self.attack.share) * loss_sum(*rows(bitmap))
            optimized.append(weight * loss / units)
            optimized[-1].backward()
            losses.append(clean / units)
        return Losses.of(losses, optimized)

    def shift(self, rows: Rows, bitmap: Bitmap) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the attack's shift at ``bitmap``, and the summed loss without it; no parameter gets a gradient."""
        shift, rms = rows.no_shift()
        bound, stride = self.attack.epsilon * rms, self.attack.stride * rms
        clean = None
        for _ in range(self.attack.steps):
            shift.requires_grad_()
            loss = loss_sum(*rows.shifted(bitmap, shift))
            (gradient,) = torch.autograd.grad(loss, shift)
            clean = loss.detach() if clean is None else clean
            shift = (shift.detach() + stride * gradient.sign()).clamp_(-bound, bound)
        assert clean is not None
        return shift, clean
