"""Words that fit a place in a text, from a causal language model in place of a masked one.

The model reads what stands *before* the place and proposes the likeliest whole words; of twice as many as are wanted,
those are kept, and put in order, whose whole text it finds likeliest, so that what stands *after* has its say.  A
masked model that sees the word itself proposes words like it; this one knows only the place, and the attack's
similarity filter must do more.  A word of several tokens is replaced like any other, by whole words, where
BERT-Attack combines proposals for each of its pieces.
"""

from __future__ import annotations

from typing import Any

import torch

from qalof.attacks.goal import TOKENS_AT_ONCE
from qalof.attacks.substitutes.synonyms import whole_words
from qalof.attacks.victim import transformers_model
from qalof.attacks.words import Words, cased
from qalof.errors import BadInputError
from qalof.evaluation.loglikelihood import Pair, most_tokens, prefix_token, score_pairs
from qalof.precision import at_least_float32

PROPOSED = 2


class LeftContext:
    """See the module's docstring.

    Args:
        lm: a causal LM, switchable or plain.
        tokenizer: of it, with words that begin with their space.
        most: candidates for a word.

    Raises:
        BadInputError: the vocabulary has no whole words.
    """

    name = "left context, rescored by the text's likelihood"

    def __init__(self, lm: Any, tokenizer: Any, most: int) -> None:
        self._lm, self._tokenizer, self._most = transformers_model(lm), tokenizer, most
        known = whole_words(tokenizer)
        if not known:
            raise BadInputError("a vocabulary must have words that begin with a space to propose words: it has none")
        self._words, self._ids = list(known), torch.tensor(list(known.values()), dtype=torch.int64)
        self._positions = most_tokens(self._lm)

    @torch.no_grad()
    def candidates(self, words: Words, index: int) -> list[str]:
        """Return words for the place ``index``, the likeliest first, with the capitals of the word there but without
        it.
        """
        own = words.words[index]
        before = self._tokenizer(words.before(index).rstrip(), verbose=False)["input_ids"][-self._positions :]
        device = self._lm.device
        ids = torch.tensor([before or [prefix_token(self._tokenizer)]], device=device)
        logits = at_least_float32(self._lm(input_ids=ids, use_cache=False).logits[0, -1]).cpu()
        order = logits[self._ids].sort(descending=True, stable=True).indices.tolist()
        proposed = [word for place in order if (word := self._words[place]) != own.lower()][: PROPOSED * self._most]
        swapped = [words.replaced(index, cased(word, own)) for word in proposed]
        ranked = sorted(zip(self._costs([each.text for each in swapped]), range(len(swapped)), strict=True))
        return [swapped[place].words[index] for _, place in ranked[: self._most]]

    def _costs(self, texts: list[str]) -> list[float]:
        """Return the NLL of each whole text in nats."""
        rows = self._tokenizer(texts, truncation=False, verbose=False)["input_ids"] if texts else []
        first = prefix_token(self._tokenizer)
        pairs = [Pair([first], row[: self._positions]) for row in rows]
        longest = max((len(row) for row in rows), default=1)
        scores, _ = score_pairs(self._lm, pairs, self._positions, max(1, TOKENS_AT_ONCE // longest))
        return [-score.log_likelihood for score in scores]
