"""Log-likelihoods of continuations under a causal LM, as lm-evaluation-harness defines them.

A pair is tokenized whole and split where its context alone would end, with the context's trailing spaces moved to the
continuation; a tokenizer may merge across the boundary, and this is the published convention for it.  A pair longer
than the model loses its beginning, never its continuation.  An empty context becomes the prefix token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from qalof.batching import Progress, attention_mask, by_length, pad_right
from qalof.errors import BadInputError
from qalof.model.language_head import head_at, rows_of
from qalof.model.positions import positions_of
from qalof.model.special_tokens import special_token
from qalof.precision import at_least_float32


@dataclass(frozen=True)
class Pair:
    """Token ids of a context, which is not empty, and of its continuation."""

    context: list[int]
    continuation: list[int]


@dataclass(frozen=True)
class Scored:
    """The sum of the continuation's log-probabilities in nats, and whether each of its tokens is the likeliest."""

    log_likelihood: float
    greedy: bool


def encode_pair(tokenizer: PreTrainedTokenizerBase, context: str, continuation: str) -> Pair:
    """Return the token ids of both, without special tokens except a prefix for an empty context."""
    if not context:
        return Pair([prefix_token(tokenizer)], _ids(tokenizer, continuation))
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    whole, before = _ids(tokenizer, context + continuation), _ids(tokenizer, context)
    return Pair(before, whole[len(before) :]) if before else Pair([prefix_token(tokenizer)], whole)


def prefix_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token before a text that nothing precedes: bos, or eos where there is none.

    Raises:
        BadInputError: The tokenizer has neither.
    """
    if tokenizer.bos_token_id is not None:
        return int(tokenizer.bos_token_id)
    return special_token(tokenizer, "eos", "a text that nothing precedes", "take another model")


def most_tokens(model: Any) -> int:
    """Return how many tokens a switchable or transformers model takes at once.

    Raises:
        BadInputError: Its config does not say.
    """
    positions = positions_of(model)
    if positions is None:
        raise BadInputError(f"max_length must be given for {type(model).__name__}, whose config says no number")
    return positions


def score_pairs(
    model: Any, pairs: Sequence[Pair], max_length: int, batch_size: int, pad: int = 0, progress: Progress | None = None
) -> tuple[list[Scored], int]:
    """Score each pair.

    Args:
        model: a model that is called like a transformers causal LM.
        pairs: the pairs, of any number.
        max_length: the most tokens that the model is given.
        batch_size: the number of pairs in a batch.
        pad: the token id that fills up on the right.
        progress: a function that is called with (done, total).

    Returns:
        Scores in the order of the pairs, and how many pairs lost the beginning of their context.

    Raises:
        BadInputError: A continuation is empty, or longer than ``max_length``.
    """
    rows = [(pair.context + pair.continuation)[-(max_length + 1) :] for pair in pairs]
    for pair in pairs:
        if not 0 < len(pair.continuation) <= max_length:
            law = f"a continuation must have 1 to max_length {max_length} tokens"
            raise BadInputError(f"{law}: got {len(pair.continuation)}; leave the item out")
    found: dict[int, Scored] = {}
    device = model.device
    for batch in by_length([len(row) for row in rows], batch_size):
        # the last token is scored and never given to the model
        inputs = [rows[index][:-1] for index in batch]
        shown = {"input_ids": pad_right(inputs, pad).to(device), "attention_mask": attention_mask(inputs).to(device)}
        counts = [len(pairs[index].continuation) for index in batch]
        scored = pad_right([[0] * (len(row) - n) + [1] * n for row, n in zip(inputs, counts, strict=True)], 0).bool()
        scored = scored.to(device)
        with torch.no_grad(), head_at(model, scored):
            logits = rows_of(model(**shown).logits, scored)
        for index, part in zip(batch, logits.split(counts), strict=True):
            found[index] = _score(part, pairs[index].continuation)
        if progress:
            progress(len(found), len(rows))
    cut = sum(len(row) < len(pair.context) + len(pair.continuation) for row, pair in zip(rows, pairs, strict=True))
    return [found[index] for index in range(len(rows))], cut


def _score(logits: torch.Tensor, continuation: Sequence[int]) -> Scored:
    target = torch.tensor(list(continuation), device=logits.device)
    logs = at_least_float32(logits).log_softmax(dim=-1)
    total = logs.gather(1, target[:, None]).double().sum()
    return Scored(float(total), bool((logs.argmax(dim=-1) == target).all()))


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
