"""Batches with the rows of logits that have labels: what a likelihood, a gradient or a divergence is computed of.

A causal model has a row for each token with a label, a span head two rows per window, a classifier one per text.  Where
a language-modeling head is left out (:func:`qalof.model.language_head.without_head`), the rows are the last hidden
states in place of logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from qalof.batching import attention_mask, pad_right
from qalof.errors import BadInputError
from qalof.model.language_head import head_at, rows_of
from qalof.precision import at_least_float32

Windows = torch.Tensor | Sequence[Sequence[int]]
"""The token ids (windows, tokens), or rows of any lengths."""


@dataclass(frozen=True)
class LabeledBatch:
    """The inputs of one forward pass, and how its labeled rows are found in the outputs."""

    inputs: Mapping[str, torch.Tensor]
    """The keyword arguments of the model, on its device."""
    rows: Callable[[Any], tuple[torch.Tensor, torch.Tensor]]
    """What takes the outputs to logits (rows, classes), in fp32 at least, and labels (rows,)."""
    labeled: torch.Tensor | None = None
    """A mask (sequences, tokens), True where a language-modeling head must run; None if it must run everywhere."""

    def run(self, model: Callable[..., Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Call ``model`` on the inputs; return logits (rows, classes), in fp32 at least, and labels (rows,)."""
        with head_at(model, self.labeled):
            return self.rows(model(**self.inputs))

    @property
    def tokens(self) -> int:
        """The number of real tokens."""
        mask = self.inputs.get("attention_mask")
        return int(self.inputs["input_ids"].numel() if mask is None else mask.sum())


def labeled_windows(windows: Windows, batch_size: int = 4, device: torch.device | str = "cpu") -> list[LabeledBatch]:
    """Return batches of text windows, in which each token but the first is the label of the row before it.

    Args:
        windows: token ids of each window, at least two.
        batch_size: the number of windows in a batch.
        device: where the tensors are put.

    Raises:
        BadInputError: There is no window, or one has less than two tokens.
    """
    ids = windows.tolist() if isinstance(windows, torch.Tensor) else [list(window) for window in windows]
    short = [window for window in ids if len(window) < 2]
    if not ids or short:
        found = f"one of {len(short[0])}" if short else "none"
        raise BadInputError(f"windows must have at least two tokens each, and there must be one: got {found}")
    batches = [ids[at : at + batch_size] for at in range(0, len(ids), batch_size)]
    return [_next_tokens(batch, torch.device(device)) for batch in batches]


def _next_tokens(ids: list[list[int]], device: torch.device) -> LabeledBatch:
    tokens, mask = pad_right(ids, 0).to(device), attention_mask(ids).to(device)
    followed = mask[:, 1:].bool()
    labeled, labels = torch.nn.functional.pad(followed, (0, 1)), tokens[:, 1:][followed]

    def rows(outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return at_least_float32(rows_of(outputs.logits, labeled)), labels

    return LabeledBatch({"input_ids": tokens, "attention_mask": mask}, rows, labeled)
