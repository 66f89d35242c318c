"""Which tokens of a batch are real, and which row each belongs to.

A score must not depend on the other examples of its batch. So nothing that is computed from tokens may use padding or
another row: no dynamic range, no outlier, no observed range, no initial value of a learned step, and no Hessian. The
mask of a batch is known to the model's forward alone, many layers above the quantizers that need it.  One
:class:`RealTokens` per model carries it there: a hook before the forward notes it and a hook after it drops it.

A *row* is one sequence of the batch. A dynamic range per tensor is taken from the real tokens of one row, in training
as in evaluation.  The rejected choice, one range for the whole batch, is what the references' code computes; it makes a
loss depend on the batch size, on the order, and on the number of workers.  A range over a row sees all of its tokens,
the later ones too: in a causal model it looks ahead.  Decoding with a cache shows a layer the prompt first and then one
token at a time, so its ranges, and with them its logits, differ from those of the full forward.

The rows of an input are recognized by its shape.  A layer sees (rows, tokens, features), of which the tokens are the
last ones of the mask where a cache holds the others; or (rows x tokens, features), as OPT's feed-forward layers do; or
(rows, features).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from qalof.errors import BadInputError


@dataclass(frozen=True, eq=False)
class Shown:
    """The batch that a model is running on. Two are equal only if they are the same object.

    Attributes:
        rows: number of sequences.
        tokens: the number of tokens per sequence, without those of a cache.
        mask: (rows, tokens), True where a token is real; None where all are.
    """

    rows: int
    tokens: int
    mask: torch.Tensor | None = None

    @classmethod
    def of(cls, inputs: torch.Tensor, mask: torch.Tensor | None) -> Shown:
        """Read it from the arguments of a forward pass.

        Args:
            inputs: ids (rows, tokens) or embeddings (rows, tokens, features).
            mask: (rows, tokens and those of the cache before them), nonzero where a token is real; None if all are.

        Raises:
            BadInputError: The mask has another shape, so padding cannot be recognized.
        """
        rows, tokens = inputs.shape[:2]
        if mask is None:
            return cls(rows, tokens)
        if mask.dim() != 2 or mask.shape[0] != rows or mask.shape[1] < tokens:
            raise BadInputError(
                "ranges that leave padding out need an attention_mask of (rows, tokens): "
                f"got {tuple(mask.shape)} for {rows} rows of {tokens} tokens; pass 1 for a token and 0 for padding"
            )
        real = mask[:, mask.shape[1] - tokens :] != 0
        return cls(rows, tokens, None if bool(real.all()) else real)


class RealTokens:
    """The rows and the padding of the batch that a model is running on; empty outside of a forward pass."""

    def __init__(self) -> None:
        self.shown: Shown | None = None

    def rows(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the input of a layer by row.

        Args:
            x: (rows, tokens, features), (rows x tokens, features), (rows, features), or outside of a forward one row
                (tokens, features).

        Returns:
            (rows, tokens, features), a view of ``x``; and (rows, tokens), True where a token is real, or None where
            all are.

        Raises:
            BadInputError: The rows cannot be recognized by the shape.
        """
        shown = self.shown
        if shown is None:
            return (x.unsqueeze(0) if x.dim() == 2 else x.flatten(1, -2)), None
        if x.dim() == 2:
            if x.shape[0] == shown.rows * shown.tokens:
                return x.unflatten(0, (shown.rows, shown.tokens)), shown.mask
            if shown.rows == 1:
                return x.unsqueeze(0), None
            if x.shape[0] == shown.rows:
                return x.unsqueeze(1), None
        if x.dim() == 3 and x.shape[0] == shown.rows and x.shape[1] <= shown.tokens:
            return x, None if shown.mask is None else shown.mask[:, shown.tokens - x.shape[1] :]
        raise BadInputError(
            f"a range of each row must know its tokens: a layer got {tuple(x.shape)} while the model was shown "
            f"{shown.rows} rows of {shown.tokens} tokens; take granularity token, which needs no rows"
        )

    def real(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` itself, or its real tokens (tokens, features) where there is padding.

        Raises:
            BadInputError: The rows cannot be recognized by the shape.
        """
        if self.shown is None or self.shown.mask is None:
            return x
        rows, mask = self.rows(x)
        return x if mask is None else rows[mask]


class _Hooks:
    """Record the batch of a model before its forward, and drop it afterwards."""

    def __init__(self, model: nn.Module, tokens: RealTokens) -> None:
        self.tokens = tokens
        self.names = list(inspect.signature(model.forward).parameters)

    def note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the tokens that are shown; this is a forward pre-hook."""
        given = dict(zip(self.names, args, strict=False)) | kwargs
        inputs = given.get("input_ids")
        inputs = given.get("inputs_embeds") if inputs is None else inputs
        self.tokens.shown = None if inputs is None else Shown.of(inputs, given.get("attention_mask"))

    def drop(self, module: nn.Module, args: Any, output: Any) -> None:
        """Drop what was noted; this is a forward hook."""
        self.tokens.shown = None


def watch(model: nn.Module, tokens: RealTokens) -> list[Any]:
    """Let ``tokens`` follow the batches of ``model``, a transformers model; return the handles of the hooks."""
    hooks = _Hooks(model, tokens)
    return [
        model.register_forward_pre_hook(hooks.note, with_kwargs=True),
        model.register_forward_hook(hooks.drop, always_call=True),
    ]


@contextmanager
def watching(model: nn.Module) -> Iterator[RealTokens]:
    """Yield an object that follows the batches of ``model`` for as long as the context lasts."""
    tokens = RealTokens()
    handles = watch(model, tokens)
    try:
        yield tokens
    finally:
        for handle in handles:
            handle.remove()
