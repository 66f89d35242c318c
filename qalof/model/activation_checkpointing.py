"""Activation checkpointing that recomputes at the bits of the forward pass it stands for.

A checkpointed block runs a second time inside backward.  By then the model may have been switched: gradients of several
bitmaps are added up before one step. If the bits were read from the model's present state, the second run would
silently be that of another configuration. So the checkpointing function of each block is wrapped: it records the state
of all switches when it is called, and restores it for as long as the block runs again.

It covers the checkpointing that transformers turns on (``activation_checkpointing_enable``), reentrant or not. A caller
that puts ``torch.utils.checkpoint`` around the whole model must not switch between its forward and its backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

State = Any
"""The state that ``capture`` returns and ``restore`` takes."""


class CapturedCheckpoint:
    """A block's checkpointing function that keeps the switches' state with every call.

    Args:
        checkpoint: the function that is wrapped, of (function, *args).
        capture: returns the present state.
        restore: sets a state.
    """

    def __init__(
        self, checkpoint: Callable[..., Any], capture: Callable[[], State], restore: Callable[[State], None]
    ) -> None:
        self.checkpoint, self.capture, self.restore = checkpoint, capture, restore

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the wrapped function."""
        then = self.capture()

        def at_the_time(*inputs: Any, **named: Any) -> Any:
            now = self.capture()
            if now == then:
                return function(*inputs, **named)
            self.restore(then)
            try:
                return function(*inputs, **named)
            finally:
                self.restore(now)

        return self.checkpoint(at_the_time, *args, **kwargs)


def checkpointed_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the modules of ``model`` that transformers can checkpoint."""
    return [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]


def keep_switches(blocks: list[nn.Module], capture: Callable[[], State], restore: Callable[[State], None]) -> None:
    """Wrap the checkpointing functions of ``blocks`` that have one and are not wrapped yet; cheap to call again."""
    for block in blocks:
        checkpoint = getattr(block, "_gradient_checkpointing_func", None)
        if checkpoint is not None and not isinstance(checkpoint, CapturedCheckpoint):
            block._gradient_checkpointing_func = CapturedCheckpoint(checkpoint, capture, restore)  # type: ignore[assignment]
