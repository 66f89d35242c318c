"""The interface of the training loop and an objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from qalof.bitmap import Bitmap

Distance = Literal["kl", "mse"]
"""How two rows of logits are compared."""

FeatureLayers = Literal["all", "last", "random"]
"""Which hidden states are compared: the accumulative, non-accumulative and stochastic forms of S4 (docs/systems.md)."""


@dataclass(frozen=True)
class Hidden:
    """The hidden states after every block of one forward pass.

    ``layers``: one tensor (sequences, tokens, features) per block, in order. ``weights``: (sequences, tokens), zero on
    padding; over the tokens of a sequence they sum to its label rows. So a sum over sequences that is divided by the
    units of the global batch does not depend on how sequences are split over workers, as for the cross entropy.
    ``answers``: weights with the same sum over only the tokens that carry the answer.
    """

    layers: tuple[torch.Tensor, ...]
    weights: torch.Tensor
    answers: torch.Tensor


Anchors = Literal["answers", "pooled"]
"""Contrastive alignment compares tokens that carry the answer, or mean states of sequences."""


class Rows(Protocol):
    """Runs the model on the current batch at a bitmap."""

    def __call__(self, bitmap: Bitmap) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (units, classes) and labels (units,)."""
        ...

    def with_hidden(self, bitmap: Bitmap) -> tuple[torch.Tensor, torch.Tensor, Hidden]:
        """Return logits, labels and the hidden states."""
        ...

    def no_shift(self) -> tuple[torch.Tensor, float]:
        """Return a shift of zero for the embedding of every token, and the root mean square of the embeddings."""
        ...

    def shifted(self, bitmap: Bitmap, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and labels for shifted embeddings."""
        ...


@dataclass(frozen=True)
class Losses:
    """The share of a batch in the losses of a step: detached scalars, in nats per label row of the whole batch.

    ``cross_entropies``: one per bitmap, in the order of :meth:`Objective.bitmaps`; comparable between objectives.
    ``optimized``: the sum of all that gradients were taken of, with its weights, distillation and attacks included.
    """

    cross_entropies: list[torch.Tensor]
    optimized: torch.Tensor

    @classmethod
    def of(cls, cross_entropies: Sequence[torch.Tensor], optimized: Sequence[torch.Tensor]) -> Losses:
        """Detach the terms from their graphs, and add up the optimized ones."""
        return cls(
            [each.detach() for each in cross_entropies], torch.stack([each.detach() for each in optimized]).sum()
        )


class Objective(Protocol):
    """Accumulates gradients of one batch."""

    gradient_bits: int | None
    """The width to which gradients of the sites' outputs are rounded; None leaves them as they are."""

    hooked: bool
    """Whether its forward passes need hooks that change from step to step, which compiled graphs cannot have."""

    def bitmaps(self, step: int) -> Sequence[Bitmap]:
        """Return the bitmaps of ``step``, from high to low width; they are the same on every worker."""
        ...

    def labels(self, step: int) -> Sequence[str]:
        """Return a name per bitmap of :meth:`bitmaps`, under which its loss is recorded; a run has few names."""
        ...

    def accumulate(self, rows: Rows, step: int, units: float) -> Losses:
        """Run the backward pass of this batch's share of the loss.

        Args:
            rows: see :class:`Rows`.
            step: the step, counted from 0.
            units: the label rows of the whole global batch.

        Returns:
            This share of the cross entropy of each of :meth:`bitmaps`, and of the loss whose gradient was taken.
        """
        ...
