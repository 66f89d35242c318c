"""The divergence of a bitmap's predictions from a reference's, KL(p || q), per row, without keeping any logits.

With last hidden states h, the head E and d = (h_q - h_ref) E^T, the logits of a bitmap minus those of the reference,

    KL(p || q) = log sum p e^d - sum p d,        NLL_q = NLL_ref - d[label] + log sum p e^d,

where p is the reference's distribution (docs/methods/search.md, "KL to full precision").  So the reference keeps one
hidden state per row, not a logit per word: 2 KB in place of 200 KB.  With d centered by its mean under p, KL
is a sum of numbers of one sign, log1p(sum p (e^d - 1 - d)), so a KL of 1e-8 still has three digits in fp32.  The head
may be a site too, or round its input; then d is the difference of the two heads' outputs.

A model with another head (spans, classes) has few logits per row; the reference keeps them as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qalof.batching import Progress
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.evaluation.label_rows import LabeledBatch
from qalof.layer_bits import FULL_PRECISION
from qalof.model.language_head import language_head, without_head
from qalof.model.switchable import SwitchableModel

CHUNK = 64
"""How many rows have their logits at once: 64 x 50,000 numbers are 13 MB in fp32."""

MOST = 30.0
"""The difference of logits above which e^d is taken in logarithms, since sums of such numbers lose nothing there."""

Floats = NDArray[np.float64]
Forward = Callable[..., Any]


@dataclass(frozen=True)
class RowScores:
    """Scores per labeled row, in the order of the batches, in nats."""

    kl: Floats
    """The divergence from the reference, (rows,), which is never negative."""
    nll: Floats
    """Minus the log-probability of the label, (rows,)."""

    def __len__(self) -> int:
        return len(self.kl)


@dataclass(frozen=True)
class Reference:
    """What a reference bitmap predicts on some batches; :func:`reference_of` makes it.

    It is good for as long as the weights of its model do not change.
    """

    batches: Sequence[LabeledBatch]
    """The inputs."""
    bitmap: Bitmap
    """The bitmap that is compared with."""
    states: Sequence[torch.Tensor]
    """The last hidden states per batch (rows, features), or logits (rows, classes) of a model with another head."""
    labels: Sequence[torch.Tensor]
    """The labels (rows,) per batch."""

    @property
    def rows(self) -> int:
        """The number of labeled rows."""
        return sum(len(labels) for labels in self.labels)

    @property
    def held_bytes(self) -> int:
        """The bytes of the states."""
        return sum(state.numel() * state.element_size() for state in self.states)


def held_bytes(model: SwitchableModel, rows: int) -> int:
    """Return the bytes that a reference of ``rows`` labeled rows will hold, in the dtype of at least fp32."""
    config = model.model.config.get_text_config()
    return 4 * rows * int(getattr(config, "hidden_size", 0) or getattr(config, "n_embd", 0))


@torch.no_grad()
def reference_of(
    model: SwitchableModel,
    batches: Sequence[LabeledBatch],
    bitmap: Bitmap | str | int = FULL_PRECISION,
    *,
    forward: Forward | None = None,
    progress: Progress | None = None,
) -> Reference:
    """Run ``model`` at the reference bitmap, and keep what it predicts.

    Args:
        model: a model, which returns to its bitmap and mode.
        batches: such as :func:`qalof.evaluation.label_rows.labeled_windows` returns.
        bitmap: the bitmap that others are compared with; full precision unless given.
        forward: as in :func:`batch_scores`.
        progress: a function that is called with (batches done, all batches).

    Raises:
        BadInputError: There is no batch, or the model changes its logits after the head.
    """
    if not batches:
        raise BadInputError("a divergence needs at least one batch of inputs: got none; give windows of text")
    states, labels = [], []
    with model.at(bitmap, eval=True) as parsed:
        head = language_head(model)
        check_head(model, head, batches[0])
        for batch in batches:
            with without_head(head):
                state, label = batch.rows((forward or model)(**batch.inputs))
            states.append(state.clone())
            labels.append(label)
            if progress:
                progress(len(states), len(batches))
    return Reference(batches, parsed, states, labels)


def check_head(model: SwitchableModel, head: nn.Module | None, batch: LabeledBatch) -> None:
    """Refuse a model whose logits are not what its head returns.

    Raises:
        BadInputError: The model changes its logits after the head.
    """
    if head is None:
        return
    inputs = {name: tensor[:1, :4] for name, tensor in batch.inputs.items()}
    logits = model(**inputs).logits
    with without_head(head):
        hidden = model(**inputs).logits
    if not torch.equal(head(hidden), logits):
        raise BadInputError(
            f"a divergence needs logits as they leave the head: {type(model.model).__name__} changes them afterwards; "
            "take another metric, such as loss"
        )


def batch_scores(
    model: SwitchableModel, reference: Reference, index: int, forward: Forward | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return KL (rows,) and NLL (rows,) of one batch at the model's present bitmap, with a graph where one is wanted.

    Args:
        model: the model whose reference it is, in eval mode.
        reference: what is compared with.
        index: the batch.
        forward: what is called with the batch's inputs in place of ``model``, such as one that shares a prefix.
    """
    batch, states, labels = reference.batches[index], reference.states[index], reference.labels[index]
    head = language_head(model)
    with without_head(head):
        found, _ = batch.rows((forward or model)(**batch.inputs))
    if head is None:
        return divergence_of(states, found - states, labels)
    return divergence_of_rows(model, head, states, found, labels, reference.bitmap)


def divergence_of_rows(
    model: SwitchableModel,
    head: nn.Module,
    then: torch.Tensor,
    now: torch.Tensor,
    labels: torch.Tensor,
    reference: Bitmap,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return KL (rows,) and NLL (rows,) of last hidden states at the model's present bitmap.

    Args:
        model: the model.
        head: its language head.
        then: (rows, features), the states at the reference.
        now: (rows, features), the states at the present bitmap.
        labels: (rows,).
        reference: the bitmap of the reference.
    """
    heads = _Heads(model, head, reference)
    parts = [heads.scores(*rows) for rows in zip(then.split(CHUNK), now.split(CHUNK), labels.split(CHUNK), strict=True)]
    return torch.cat([kl for kl, _ in parts]), torch.cat([nll for _, nll in parts])


@torch.no_grad()
def divergence(
    model: SwitchableModel,
    bitmap: Bitmap | str | int,
    reference: Reference,
    *,
    forward: Forward | None = None,
    progress: Progress | None = None,
) -> RowScores:
    """Return KL to the reference and NLL per labeled row at ``bitmap``; the model returns to its bitmap and mode.

    Args:
        model: the model whose reference it is.
        bitmap: any form of a bitmap.
        reference: what is compared with.
        forward: as in :func:`batch_scores`.
        progress: a function that is called with (batches done, all batches).

    Raises:
        BadInputError: The bitmap does not fit the model.
    """
    kl: list[Floats] = []
    nll: list[Floats] = []
    with model.at(bitmap, eval=True):
        for index in range(len(reference.batches)):
            for kept, part in zip((kl, nll), batch_scores(model, reference, index, forward), strict=True):
                kept.append(part.double().cpu().numpy())
            if progress:
                progress(index + 1, len(reference.batches))
    return RowScores(np.concatenate(kl), np.concatenate(nll))


def divergence_of(logits: torch.Tensor, d: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return KL(p || q) (rows,) and the NLL of q (rows,), differentiable in ``d``.

    Args:
        logits: (rows, classes) of the reference; an impossible class has the lowest number of its dtype.
        d: (rows, classes), by how much the other logits are larger.
        labels: (rows,).
    """
    log_p = logits.log_softmax(dim=-1)
    p = log_p.exp()
    mean = (p * d).sum(dim=-1, keepdim=True)
    centered = d - mean
    small = centered.amax(dim=-1) < MOST
    held = centered.clamp(max=MOST)
    near = torch.log1p((p * (torch.expm1(held) - held)).sum(dim=-1))
    kl = near if bool(small.all()) else torch.where(small, near, (log_p + centered).logsumexp(dim=-1))
    each = labels.unsqueeze(-1)
    nll = kl - (log_p.gather(-1, each) + centered.gather(-1, each)).squeeze(-1)
    return kl, nll


class _Heads:
    """The head at the reference and at the present bitmap."""

    def __init__(self, model: SwitchableModel, head: nn.Module, reference: Bitmap) -> None:
        self.model, self.head, self.bitmap, self.reference = model, head, model.bitmap, reference
        # the head of a model without such sites is one linear map, whatever the bitmap
        sites = [site.name for site in model.sites if site.is_head or site.is_embedding]
        full = FULL_PRECISION
        self.linear = all(reference[name] == self.bitmap[name] and reference[name].activation == full for name in sites)

    def scores(self, then: torch.Tensor, now: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return KL and NLL of rows with hidden states ``then`` at the reference and ``now``, (rows, features)."""
        dtype = cast(torch.Tensor, next(self.model.parameters())).dtype
        if self.linear:
            with torch.no_grad():
                logits = self.head(then.to(dtype)).to(then.dtype)
            d = self.head((now - then).to(dtype)).to(then.dtype)
            bias = getattr(self.head, "bias", None)
            return divergence_of(logits, d if bias is None else d - bias, labels)
        with torch.no_grad(), self.model.at(self.reference):
            logits = self.head(then.to(dtype)).to(then.dtype)
        return divergence_of(logits, self.head(now.to(dtype)).to(then.dtype) - logits, labels)
