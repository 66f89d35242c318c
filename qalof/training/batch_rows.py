"""One micro-batch as an objective sees it: it runs at a bitmap, with hidden states or shifted embeddings if needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from qalof.bitmap import Bitmap
from qalof.model.language_head import head_at
from qalof.model.switchable import SwitchableModel
from qalof.precision import at_least_float32
from qalof.tasks.base import Batch, Task
from qalof.training.objectives.base import Hidden


class BatchRows:
    """Runs ``model`` on ``batch``; ``units`` are the label rows per sequence, and ``bf16`` runs under autocast."""

    def __init__(
        self, model: SwitchableModel, task: Task, batch: Batch, units: Sequence[float], *, bf16: bool = False
    ) -> None:
        self._model, self._task, self._batch, self._units, self._bf16 = model, task, batch, units, bf16

    def __call__(self, bitmap: Bitmap) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (units, classes), fp32 at least, and labels (units,) at ``bitmap``."""
        return self._rows(self._run(bitmap))

    def with_hidden(self, bitmap: Bitmap) -> tuple[torch.Tensor, torch.Tensor, Hidden]:
        """Return logits, labels and the states after each block.

        The state before the first block is left out: it comes from the embeddings, which run alike at every bitmap.
        """
        outputs = self._run(bitmap, output_hidden_states=True)
        states = tuple(outputs.hidden_states[1:])
        dtype = at_least_float32(states[-1]).dtype
        masks = (self._batch["attention_mask"], answer_mask(self._batch))
        return *self._rows(outputs), Hidden(states, *(self._spread(mask.to(dtype)) for mask in masks))

    def no_shift(self) -> tuple[torch.Tensor, float]:
        """Return a shift of zero, (sequences, tokens, features), and the root mean square of the embedding table."""
        table = self._embeddings().weight
        assert isinstance(table, torch.Tensor)
        table = table.detach()
        ids = self._batch["input_ids"]
        return table.new_zeros(*ids.shape, table.shape[1]), float(table.square().mean().sqrt())

    def shifted(self, bitmap: Bitmap, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits and labels at ``bitmap`` with ``shift`` added to the embeddings of the tokens."""
        # a hook is used instead of inputs_embeds, since a classifier finds its last token by the ids
        handle = self._embeddings().register_forward_hook(lambda module, inputs, output: output + shift)
        try:
            return self(bitmap)
        finally:
            handle.remove()

    def _run(self, bitmap: Bitmap, **options: Any) -> Any:
        self._model.set_bitmap(bitmap)
        device = self._batch["input_ids"].device.type
        autocast = torch.autocast(device, torch.bfloat16, enabled=self._bf16)
        with autocast, head_at(self._model, self._task.labeled(self._batch)):
            return self._model(**self._task.model_inputs(self._batch), **options)

    def _rows(self, outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        logits, labels = self._task.label_rows(outputs, self._batch)
        return at_least_float32(logits), labels

    def _spread(self, mask: torch.Tensor) -> torch.Tensor:
        """Return the units of each sequence, spread evenly over the tokens of ``mask``."""
        units = torch.tensor(self._units, dtype=mask.dtype, device=mask.device)
        return mask * (units / mask.sum(dim=1).clamp(min=1))[:, None]

    def _embeddings(self) -> nn.Module:
        module: nn.Module = self._model.model.get_input_embeddings()
        return module


def answer_mask(batch: Batch) -> torch.Tensor:
    """Return which tokens carry the answer, (sequences, tokens) of 0 and 1, int64.

    They are the tokens whose next token is labeled, the two ends of a span, or the last token of a classified text.
    """
    mask = torch.zeros_like(batch["attention_mask"], dtype=torch.int64)
    if "start" in batch:
        return mask.scatter_(1, torch.stack([batch["start"], batch["end"]], dim=1), 1)
    if batch["labels"].dim() == 2:
        return (batch["labels"] >= 0).long()
    return mask.scatter_(1, batch["attention_mask"].sum(dim=1, keepdim=True).long() - 1, 1)
