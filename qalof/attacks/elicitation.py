"""Elicitation: what a causal language model reads of a prompt, and whether the prompt makes it say a target.

A prompt elicits a target when the target is the model's greedy continuation of it.  One pass over prompt and target
shows that: the most likely token at every position of the target is the target's. Greedy decoding would then have
chosen exactly these tokens, so nothing needs to be generated.

Prompts are *texts*, since a user sends texts. Token ids that differ from those of their own text (``spelled`` checks
that) are not a prompt, and searches drop them. The official code of ARCA tests the ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from qalof.attacks.goal import FAILED, SUCCEEDED, TargetedGoal
from qalof.attacks.victim import BATCH, Precisions, Victim
from qalof.batching import by_equal_length
from qalof.errors import BadInputError
from qalof.model.pretrained import HeadKind

MOST = 0.5
"""The share of several precisions, by weight, of which more must say a target for a prompt to elicit it."""

LEAST_ALIKE = 4
"""How many characters a token must have to count as resembling a word of the target."""


class Elicitation:
    """Reads prompts; a :class:`~qalof.attacks.goal.GoalFunction` whose answers are
    :data:`~qalof.attacks.goal.FAILED` and :data:`~qalof.attacks.goal.SUCCEEDED`.

    Args:
        model: a causal LM, as a :class:`~qalof.model.switchable.SwitchableModel`.
        tokenizer: its tokenizer.
        max_length: the greatest length of prompt and target together, in tokens.
        precisions: what an attacker who knows the defense takes the mean over; None reads at the model's bitmap.

    Raises:
        BadInputError: The model has another head, or ``max_length`` exceeds the model's positions.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, precisions: Precisions | None = None
    ) -> None:
        if model.base.head is not HeadKind.CAUSAL_LM:
            raise BadInputError(f"to elicit a text needs a causal LM's checkpoint: got a {model.base.head} head")
        self.victim = Victim(model, tokenizer, max_length, precisions)
        self.model, self.tokenizer = model, tokenizer

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return token ids, with the tokens that the tokenizer puts before a text."""
        tokenizer: Any = self.tokenizer
        rows: list[list[int]] = tokenizer(list(prompts), truncation=False, verbose=False)["input_ids"]
        return rows

    def target(self, text: str) -> list[int]:
        """Return the token ids of a target.

        Raises:
            BadInputError: The text has no tokens.
        """
        tokenizer: Any = self.tokenizer
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not ids:
            raise BadInputError(f"a target must have at least 1 token: got {text!r}")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a prompt, byte for byte, without special tokens, which no text gives."""
        tokenizer: Any = self.tokenizer
        text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def spelled(self, rows: Sequence[Sequence[int]]) -> list[bool]:
        """Return, per row, whether the text of the row is tokenized as that row."""
        if not rows:
            return []
        again = self.encode([self.decode(row) for row in rows])
        return [list(row) == other for row, other in zip(rows, again, strict=True)]

    def elicits(self, prompt: str, target: str) -> bool:
        """Return whether ``target`` is the greedy continuation of ``prompt`` at the model's bitmap, or at most of the
        precisions.
        """
        pair = (self.encode([prompt])[0], self.target(target))
        return sum(share for share in self.victim.readings() if self._said([pair])[0]) > MOST

    def answers(self, examples: Sequence[TargetedGoal], rows: Sequence[Sequence[str]]) -> list[list[int]]:
        """Return success for each prompt that elicits its example's target, and failure otherwise."""
        pairs: list[tuple[list[int], list[int]]] = []
        for example, prompts in zip(examples, rows, strict=True):
            target = self.target(example.target)
            pairs += [(ids, target) for ids in self.encode(prompts)]
        said = iter(self._said(pairs))
        return [[SUCCEEDED if next(said) else FAILED for _ in prompts] for prompts in rows]

    def check_length(self, prompt: int, target: int) -> None:
        """Check the lengths of a prompt and a target in tokens.

        Raises:
            BadInputError: They do not fit.
        """
        if prompt + target > self.victim.max_length:
            raise BadInputError(
                f"prompt and target must fit in max_length {self.victim.max_length}: got {prompt} + {target} tokens"
            )

    @torch.no_grad()
    def _said(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[bool]:
        found = [False] * len(pairs)
        device = self.model.device
        for members in by_equal_length([(len(prompt), len(target)) for prompt, target in pairs], BATCH):
            prompt, target = (len(part) for part in pairs[members[0]])
            self.check_length(prompt, target)
            if not prompt:
                continue  # a prompt without tokens has no continuation
            ids = torch.tensor([[*pairs[index][0], *pairs[index][1]] for index in members], device=device)
            said = greedy_hits(self.model(input_ids=ids, use_cache=False).logits, ids, prompt)
            for index, hit in zip(members, said.tolist(), strict=True):
                found[index] = hit
        return found


def greedy_hits(logits: torch.Tensor, ids: torch.Tensor, prompt: int) -> torch.Tensor:
    """Return whether each row's tokens after ``prompt`` tokens are the most likely ones. (B, n, V), (B, n) -> (B,)
    bool.
    """
    return (logits[:, prompt - 1 : -1].argmax(-1) == ids[:, prompt:]).all(-1)


def allowed_tokens(tokenizer: PreTrainedTokenizerBase, size: int, target_ids: Sequence[int], target: str) -> list[int]:
    """Return the token ids that a prompt for ``target`` may be made of.

    These are left out: special tokens and embedding rows beyond the tokenizer's vocabulary; the target's own tokens;
    tokens of more than three characters that begin like one of the target's words, or that one of them begins with,
    whatever their case. Otherwise a prompt would simply contain its target.

    Raises:
        BadInputError: No token is left.
    """
    words = [word.casefold() for word in target.split()]
    own = set(target_ids)
    left = [
        token
        for token, text in enumerate(_texts(tokenizer, size))
        if text is not None and token not in own and not (len(text) >= LEAST_ALIKE and _resembles(text, words))
    ]
    if not left:
        raise BadInputError(f"tokens must be left to make a prompt for {target!r} of: got none; take another target")
    return left


def _resembles(text: str, words: Sequence[str]) -> bool:
    return any(text.startswith(word) or word.startswith(text) for word in words)


@lru_cache(maxsize=2)
def _texts(tokenizer: Any, size: int) -> tuple[str | None, ...]:
    """Return the text of every token in lower case without the space around it; None for tokens that no text holds."""
    special = set(tokenizer.all_special_ids)
    known = min(size, len(tokenizer))
    texts = [None if i in special else tokenizer.decode([i]).strip().casefold() for i in range(known)]
    return (*texts, *([None] * (size - known)))
