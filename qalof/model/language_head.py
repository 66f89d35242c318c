"""The language-modeling head: left out, or run only at the tokens whose predictions are asked for.

A head of 49,152 words is a fifth of the work of a model of 135 M parameters and most of the memory of its pass, and a
completion task has labels at a twentieth of its tokens.  So a hook before the head passes on the hidden states of
those tokens alone, and the model's logits are (rows, words).  Whatever a family does with its logits afterwards, such
as a cap or a scale, it does to each of them.

One choice was rejected: ``logits_to_keep`` of transformers keeps the same positions in all sequences, and labels begin
at another position in each.

The head runs at every token where something at it depends on all of them: a range or a learned step that tokens share
(:attr:`~qalof.quantization.scheme.TensorScheme.sees_rows`), a mask of dropout, or a hook that watches its output, such
as that of a rounded gradient.  It does so too in a model that ``splits_rows``, which runs the sequences of a batch in
passes of their own.  So a loss and its gradient are those of the whole head, up to the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from qalof.model.layers.tensor_quantizer import TensorQuantizer

_CHOSEN: dict[int, torch.Tensor] = {}
"""The indices of the chosen tokens, by the id of the head that runs at them; torch.compile would take the length of a
tensor that belongs to a module for a constant, and make a graph for each."""


def language_head(model: Any) -> nn.Module | None:
    """Return the module that maps hidden states to logits over the vocabulary; None for a model with another head.

    ``model`` is a transformers model, or one that holds it as its ``model``, such as a switchable one.
    """
    while not hasattr(model, "get_output_embeddings"):
        if (model := getattr(model, "model", None)) is None:
            return None
    head = model.get_output_embeddings()
    return head if isinstance(head, nn.Module) else None


@contextmanager
def without_head(head: nn.Module | None) -> Iterator[None]:
    """Let ``head`` return its input within the block, so a model's logits are its last hidden states."""
    if head is None:
        yield
        return
    head.__dict__["forward"] = lambda hidden, *args, **kwargs: hidden
    try:
        yield
    finally:
        del head.__dict__["forward"]


@contextmanager
def head_at(model: Any, labeled: torch.Tensor | None) -> Iterator[None]:
    """Let the head of ``model`` run only where ``labeled`` says, within the block; :func:`rows_of` reads the logits.

    Args:
        model: as in :func:`language_head`.
        labeled: (sequences, tokens), True at the tokens whose logits are wanted; None runs the head at all tokens.
    """
    head = None if labeled is None or getattr(model, "splits_rows", False) else language_head(model)
    if head is None or labeled is None or _needs_all_tokens(head):
        yield
        return
    # the hook stays, since a graph of torch.compile does not follow hooks that come and go
    if _choose not in head._forward_pre_hooks.values():
        head.register_forward_pre_hook(_choose)
    _CHOSEN[id(head)] = labeled.flatten().nonzero().squeeze(-1)
    try:
        yield
    finally:
        _CHOSEN.pop(id(head), None)


def rows_of(logits: torch.Tensor, labeled: torch.Tensor) -> torch.Tensor:
    """Return the logits (rows, words) of the tokens where ``labeled`` (sequences, tokens) is True, in their order.

    Args:
        logits: (sequences, tokens, words), or (rows, words) where :func:`head_at` has chosen the rows.
        labeled: what :func:`head_at` was given.
    """
    return logits if logits.dim() == 2 else logits[labeled]


def _choose(head: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
    """Pass on the chosen rows of the hidden states (sequences, tokens, features), the head's first argument."""
    index = _CHOSEN.get(id(head))
    if index is None:
        return None
    hidden, *others = args
    return (hidden.flatten(0, -2).index_select(0, index), *others)


def _needs_all_tokens(head: nn.Module) -> bool:
    """Return whether what ``head`` gives at a token, or its gradient, depends on the other tokens that it is given."""

    def shared(part: nn.Module) -> bool:
        if isinstance(part, TensorQuantizer):
            return part.tokens is not None and part.scheme.sees_rows
        return bool(part._forward_hooks) or (isinstance(part, nn.Dropout) and part.training and part.p > 0)

    return any(shared(part) for part in head.modules())
