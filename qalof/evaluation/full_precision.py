"""The divergence of a model at its present bitmap from itself at full precision, batch by batch, beside other scores.

An evaluation runs its batches anyway; here the input of the head is kept as it passes, and compared with what it is at
full precision (:mod:`qalof.evaluation.kl`).  So KL takes one more product with the head per bitmap, and all other
metrics keep their bits.

Full precision is run once per batch and its last hidden states are kept: 2 KB per labeled row of a model of 576
features, in place of 200 KB of logits.  At most :data:`MOST_BYTES` are kept; a batch that does not fit is run at full
precision again whenever it is needed, which costs time and changes no number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from qalof.bitmap import Bitmap
from qalof.digests import content_digest
from qalof.errors import BadInputError
from qalof.evaluation.kl import check_head, divergence_of_rows
from qalof.evaluation.label_rows import LabeledBatch
from qalof.layer_bits import FULL_PRECISION
from qalof.model.language_head import head_at, language_head, without_head
from qalof.model.switchable import SwitchableModel

MOST_BYTES = 1 << 28
"""The most bytes of hidden states that are kept: 116,000 labeled rows of a model of 576 features."""


@dataclass
class FullPrecision:
    """What a model predicts at full precision; it is good for as long as the weights of the model do not change."""

    most_bytes: int = MOST_BYTES
    """The most bytes of hidden states that are kept."""
    _states: dict[str, torch.Tensor] = field(default_factory=dict)
    _bitmap: Bitmap | None = None

    @property
    def held_bytes(self) -> int:
        """The bytes that are kept now."""
        return sum(state.numel() * state.element_size() for state in self._states.values())

    @torch.no_grad()
    def run(self, model: Any, batch: LabeledBatch) -> tuple[Any, torch.Tensor]:
        """Return the outputs of ``model`` at its present bitmap, and KL (rows,) in nats from full precision.

        Raises:
            BadInputError: The model has no full precision, no language head, or changes its logits after the head.
        """
        head = language_head(model) if isinstance(model, SwitchableModel) else None
        if head is None:
            raise BadInputError(
                "kl needs a switchable model with a language head, which can run at full precision: got "
                f"{type(model).__name__}; take another metric, such as loss"
            )
        if self._bitmap is None:
            with model.at(FULL_PRECISION, eval=True) as full:
                check_head(model, head, batch)
            self._bitmap = full
        with head_at(model, batch.labeled), _inputs_of(head) as seen:
            outputs = model(**batch.inputs)
        states, labels = batch.rows(SimpleNamespace(logits=seen[-1]))
        then = self._at_full(model, head, batch)
        return outputs, divergence_of_rows(model, head, then, states, labels, self._bitmap)[0]

    def _at_full(self, model: SwitchableModel, head: nn.Module, batch: LabeledBatch) -> torch.Tensor:
        key = _key(batch.inputs)
        if key in self._states:
            return self._states[key]
        with model.at(FULL_PRECISION, eval=True), without_head(head):
            states = batch.rows(model(**batch.inputs))[0].clone()
        if self.held_bytes + states.numel() * states.element_size() <= self.most_bytes:
            self._states[key] = states
        return states


def _key(inputs: Mapping[str, torch.Tensor]) -> str:
    return content_digest({name: tensor.tolist() for name, tensor in inputs.items()})


@contextmanager
def _inputs_of(head: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Yield the list of the inputs that ``head`` gets within the block."""
    seen: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        handle.remove()
