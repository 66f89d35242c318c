"""Texts that a causal language model writes greedily: one function for the scores of a task and for a served model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from qalof.batching import Progress, by_length


@torch.no_grad()
def greedy_texts(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], max_new_tokens: int,
    stops: Sequence[int], batch_size: int, progress: Progress | None = None,
) -> list[str]:  # fmt: skip
    """Return what ``model`` writes after each prompt, without special tokens.

    Args:
        model: a causal LM, called as a transformers model.
        tokenizer: the tokenizer of the prompts.
        prompts: token ids, at least one per prompt.
        max_new_tokens: the most tokens of a text.
        stops: the tokens that end a text.
        batch_size: how many prompts are read at once.
        progress: called with the number of texts that are written, and that of all.
    """
    texts: list[str] = [""] * len(prompts)
    done = 0
    for batch in by_length([len(ids) for ids in prompts], batch_size):
        for index, text in zip(
            batch, _batch(model, tokenizer, [prompts[i] for i in batch], max_new_tokens, stops), strict=True
        ):
            texts[index] = text
        done += len(batch)
        if progress:
            progress(done, len(prompts))
    return texts


def _batch(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], max_new_tokens: int,
    stops: Sequence[int],
) -> list[str]:  # fmt: skip
    pad = int(tokenizer.pad_token_id or 0)
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    # the ids stand first without a name, since a model under random precision calls them otherwise
    out = model.generate(
        ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad,
        eos_token_id=list(stops),
    )  # fmt: skip
    return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in out[:, longest:]]
