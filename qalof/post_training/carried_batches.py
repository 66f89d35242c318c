"""Calibration batches that are carried through a model block by block, so that no finished block runs twice.

Layers are rounded from the input to the output, and each needs its inputs behind all rounded ones. Passes over the
whole model would take a time that grows with the square of its blocks.  What the last finished block gave for a batch
is kept instead, one hidden state per token, and the next pass begins there. The model itself does all the rest, so no
family needs code of its own, and every number is that of the whole pass, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from qalof.model.blocks import block_places, blocks_of, noting, run_by
from qalof.model.switchable import SwitchableModel


@dataclass(frozen=True)
class _Kept:
    """The output of the first ``blocks`` blocks of a model for one batch."""

    blocks: int = 0
    output: Any = None


class CarriedBatches:
    """Batches, and what the finished blocks of a model made of each.

    Args:
        model: a model, in which a block's numbers must not change once layers of a later block have been reached.
        batches: keyword arguments of the model.
    """

    def __init__(self, model: SwitchableModel, batches: Sequence[Mapping[str, Any]]) -> None:
        self.model, self.batches = model, batches
        self._blocks = blocks_of(model)
        self._place = block_places(self._blocks)
        self._kept = [_Kept()] * len(batches)

    def passes_to(self, layers: Sequence[nn.Module]) -> Iterator[Callable[[], None]]:
        """Yield one function per batch, which runs the model; whoever calls it may end the pass behind ``layers``."""
        before = min(self._place.get(layer, 0) for layer in layers)
        for index in range(len(self.batches)):
            yield partial(self._run, index, before)

    def _run(self, index: int, before: int) -> None:
        kept, order = self._kept[index], list[tuple[nn.Module, Any]]()
        if kept.blocks > before:  # a layer outside of the blocks sees what the whole model gives it
            kept = _Kept()
        running = self._blocks[kept.blocks : before]
        with ExitStack() as stack:
            for block in self._blocks[: kept.blocks]:
                stack.enter_context(run_by(block, lambda *args, **kwargs: kept.output))
            for block in running:
                stack.enter_context(run_by(block, noting(block, order)))
            try:
                self.model(**{name: self._moved(value) for name, value in self.batches[index].items()})
            finally:
                if order and [block for block, _ in order] == running:  # a family that repeats blocks carries nothing
                    self._kept[index] = _Kept(before, order[-1][1])

    def _moved(self, value: Any) -> Any:
        return value.to(self.model.device) if isinstance(value, torch.Tensor) else value
