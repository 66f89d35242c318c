"""One micro-batch as an objective sees it: run it at a bitmap, with or without the hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qalof.bitmap import Bitmap
from qalof.model.switchable import SwitchableModel
from qalof.tasks.base import Batch, Task
from qalof.training.objectives.base import Hidden


class BatchRows:
    """Runs ``model`` on ``batch``; ``units``: label rows of each of its sequences."""

    def __init__(self, model: SwitchableModel, task: Task, batch: Batch, units: Sequence[float]) -> None:
        self._model, self._task, self._batch, self._units = model, task, batch, units

    def __call__(self, bitmap: Bitmap) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (units, classes) and labels (units,) at ``bitmap``."""
        self._model.set_bitmap(bitmap)
        return self._task.label_rows(self._model(**self._task.model_inputs(self._batch)), self._batch)

    def with_hidden(self, bitmap: Bitmap) -> tuple[torch.Tensor, torch.Tensor, Hidden]:
        """The same, and the states after each block.

        The state before the first block is left out: it comes from the embeddings, which run alike at every bitmap.
        """
        self._model.set_bitmap(bitmap)
        outputs = self._model(**self._task.model_inputs(self._batch), output_hidden_states=True)
        mask = self._batch["attention_mask"].float()
        units = torch.tensor(self._units, dtype=mask.dtype, device=mask.device)
        weights = mask * (units / mask.sum(dim=1))[:, None]
        return *self._task.label_rows(outputs, self._batch), Hidden(tuple(outputs.hidden_states[1:]), weights)
