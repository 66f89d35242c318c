"""What the training loop gives to an objective, and what it gets back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from qalof.bitmap import Bitmap

Distance = Literal["kl", "mse"]
"""How two rows of logits are compared."""

FeatureLayers = Literal["all", "last", "random"]
"""Which hidden states are compared: S4's accumulative, non-accumulative and stochastic forms."""


@dataclass(frozen=True)
class Hidden:
    """The hidden states after every block of one forward pass.

    ``layers``: one tensor (sequences, tokens, features) a block, in order.  ``weights``: (sequences, tokens), zero on
    padding, and over the tokens of a sequence the sum of its label rows; so that, like the cross entropy, what is
    summed over sequences and divided by the units of the global batch does not depend on who holds which.
    ``answers``: the same sum over the tokens that carry the answer alone.
    """

    layers: tuple[torch.Tensor, ...]
    weights: torch.Tensor
    answers: torch.Tensor


Anchors = Literal["answers", "pooled"]
"""What contrastive alignment compares: tokens that carry the answer, or mean states of sequences."""


class Rows(Protocol):
    """Runs the model on the current batch at a bitmap."""

    def __call__(self, bitmap: Bitmap) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (units, classes) and labels (units,)."""
        ...

    def with_hidden(self, bitmap: Bitmap) -> tuple[torch.Tensor, torch.Tensor, Hidden]:
        """The same, and the hidden states."""
        ...

    def no_shift(self) -> tuple[torch.Tensor, float]:
        """A shift of zero for every token's embedding, and the embeddings' root mean square."""
        ...

    def shifted(self, bitmap: Bitmap, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As a call, with embeddings shifted."""
        ...


@dataclass(frozen=True)
class Losses:
    """What a batch's share adds to the losses of a step; detached scalars, in nats per label row of the whole batch.

    ``cross_entropies``: one per bitmap, in the order of :meth:`Objective.bitmaps`; comparable between objectives.
    ``optimized``: the sum of all that gradients were taken of, with its weights, distillation and attacks included.
    """

    cross_entropies: list[torch.Tensor]
    optimized: torch.Tensor

    @classmethod
    def of(cls, cross_entropies: Sequence[torch.Tensor], optimized: Sequence[torch.Tensor]) -> Losses:
        """From the terms as they were: graphs are let go, and the optimized terms are added up."""
        return cls(
            [each.detach() for each in cross_entropies], torch.stack([each.detach() for each in optimized]).sum()
        )


class Objective(Protocol):
    """Accumulates gradients of one batch."""

    gradient_bits: int | None
    """Width to which gradients of sites' outputs are rounded; None leaves them as they are."""

    hooked: bool
    """Whether its forward passes need hooks that change from step to step, which compiled graphs cannot have."""

    def bitmaps(self, step: int) -> Sequence[Bitmap]:
        """What runs at ``step``, from high to low width; the same on every worker."""
        ...

    def labels(self, step: int) -> Sequence[str]:
        """A name for each of :meth:`bitmaps`, under which its loss is recorded: few names over a whole run."""
        ...

    def accumulate(self, rows: Rows, step: int, units: float) -> Losses:
        """Backward of this batch's share of the loss.

        Args:
            rows: see :class:`Rows`.
            step: counted from 0.
            units: label rows of the whole global batch.

        Returns:
            This share of the cross entropy of each of :meth:`bitmaps`, and of the loss whose gradient was taken.
        """
        ...
