"""The rounded input of layers that read the same tensor, such as queries, keys and values, computed once for all.

Rounding an input takes a dozen passes over it, and as many kernels to start on a GPU, where a short batch waits for
little else. Three of an attention block's projections read one tensor, and so do the two of a gated MLP. What was
rounded last is kept while the model's forward runs, and given again for the very same tensor, unchanged, at the same
bits of the same quantizer; the gradient then passes one rounding instead of several, and is their sum. Nothing is kept
outside of a forward pass, or where a graph of ``torch.compile`` fuses the rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import nn

Rounded = TypeVar("Rounded")


class RoundedInput:
    """What was rounded last in the forward pass that a model is running; empty outside of one."""

    def __init__(self) -> None:
        self._runs = False
        self._last: tuple[torch.Tensor, int, Hashable, Any] | None = None

    def get(self, x: torch.Tensor, how: Hashable, compute: Callable[[], Rounded]) -> Rounded:
        """Return the result of ``compute``, which may be that of the last call.

        Args:
            x: what is rounded, of any shape.
            how: all that the result depends on besides ``x``.
            compute: rounds ``x``.
        """
        if not self._runs or torch.compiler.is_compiling() or x.is_inference():
            return compute()
        key = (how, torch.is_grad_enabled())
        last = self._last
        if last is not None and last[0] is x and last[1] == x._version and last[2] == key:
            kept: Rounded = last[3]
            return kept
        rounded = compute()
        self._last = (x, x._version, key, rounded)
        return rounded

    def begin(self, *_: Any) -> None:
        """Keep what is rounded from now on: a hook before the model's forward."""
        self._runs, self._last = True, None

    def end(self, *_: Any) -> None:
        """Drop what is kept: a hook after the model's forward, also after one that failed."""
        self._runs, self._last = False, None

    def follow(self, model: nn.Module) -> None:
        """Keep inputs within the forward passes of ``model``."""
        model.register_forward_pre_hook(self.begin)
        model.register_forward_hook(self.end, always_call=True)
