"""A causal language model is to find its text less likely (the victim of S4, docs/systems.md).

S4 does not define the success of such an attack. Here it succeeds when the mean NLL rises by a tenth, measured *only
over words that the attack did not change*: words that it swapped in are less likely for any model, however robust.  The
rise is taken against the clean text *at the same bitmap*, so the noise of few bits alone never counts as a success.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from qalof.attacks.goal import FAILED, TOKENS_AT_ONCE, GoalFunctionResult, TargetedGoal, VictimGoal
from qalof.attacks.victim import Precisions, Victim
from qalof.batching import by_equal_length
from qalof.errors import BadInputError
from qalof.precision import at_least_float32

DEFAULT_RISE = 0.1
_LEAST_NATS = 1e-6


@dataclass(frozen=True)
class _Reading:
    """A language model's reading of a text: for each word its NLL in nats, scored tokens, and those guessed right."""

    words: tuple[str, ...]
    nats: tuple[float, ...]
    tokens: tuple[int, ...]
    hits: tuple[float, ...]


class ContinuationGoal(VictimGoal[_Reading]):
    """``score`` and ``importance``: the relative rise of the mean NLL over untouched words; a success from ``rise`` on.

    The first token of a text has nothing before it and is not scored; white space counts to the word after it.

    Args:
        model: a causal LM, switchable or plain.
        tokenizer: a fast one, for its offsets.
        max_length: longest text in tokens.
        rise: as a share, above 0.
        precisions: what an attacker who knows the defense averages the NLL over; None reads at the model's bitmap.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, rise: float = DEFAULT_RISE,
        precisions: Precisions | None = None,
    ) -> None:  # fmt: skip
        if not rise > 0:
            raise BadInputError(f"the rise of the NLL that counts as success must be above 0: got {rise}; 0.1 is usual")
        # lengths are checked, and texts encoded and decoded, exactly as for a classifier
        super().__init__(Victim(model, tokenizer, max_length, precisions))
        self.rise = rise

    def lost(self, original: str, label: int) -> bool:
        """Return False, since there is no right answer to miss."""
        return False

    def answers(self, examples: Sequence[TargetedGoal], rows: Sequence[Sequence[str]]) -> list[list[int]]:
        """Return whether an attack failed or succeeded with each text."""
        return [[FAILED, *(int(v.succeeded) for v in self.get_results(clean, FAILED, texts))] for clean, *texts in rows]

    def get_results(self, original: str, label: int, texts: Sequence[str]) -> list[GoalFunctionResult]:
        """Return the results of changes of ``original``; ``label`` is not used."""
        clean = self._original(original)
        rises = [_rise(*_common(clean, reading)[::2]) for reading in self._changed(original, texts)]
        return [GoalFunctionResult(rise, rise, rise >= self.rise) for rise in rises]

    def measures(self, original: str, found: str) -> Mapping[str, float]:
        """Return mean NLL in nats and next-token accuracy over the words that both texts have."""
        nll_before, hits_before, nll_after, hits_after = _common(self._original(original), *self._readings([found]))
        return {
            "nll_before": nll_before,
            "nll_after": nll_after,
            "accuracy_before": hits_before,
            "accuracy_after": hits_after,
        }

    def _readings(self, texts: Sequence[str]) -> list[_Reading]:
        """Return the reading of each text, the mean over the victim's precisions if it has some."""
        read = [(weight, self._readings_here(texts)) for weight in self.victim.readings()]
        if self.victim.precisions is None:
            return read[0][1]
        weights = [weight for weight, _ in read]
        return [_mean_reading(weights, each) for each in zip(*(readings for _, readings in read), strict=True)]

    def _readings_here(self, texts: Sequence[str]) -> list[_Reading]:
        """Read texts of equal length together, so nothing is padded."""
        tokenizer: Any = self.victim.tokenizer
        encoded = [tokenizer(text, return_offsets_mapping=True, verbose=False) for text in texts]
        rows = [e["input_ids"][: self.victim.max_length] for e in encoded]
        found: dict[int, _Reading] = {}
        longest = max((len(row) for row in rows), default=1)
        for batch in by_equal_length([len(row) for row in rows], max(1, TOKENS_AT_ONCE // max(1, longest))):
            nats, hits = self._tokens([rows[index] for index in batch])
            for index, row_nats, row_hits in zip(batch, nats, hits, strict=True):
                offsets = encoded[index]["offset_mapping"][: len(rows[index])]
                found[index] = _by_word(texts[index], offsets, row_nats, row_hits)
        return [found[index] for index in range(len(texts))]

    @torch.no_grad()
    def _tokens(self, rows: Sequence[Sequence[int]]) -> tuple[list[list[float]], list[list[bool]]]:
        """Return the NLL of every token but the first, and whether it was the likeliest; rows have equal length."""
        if len(rows[0]) < 2:
            return [[] for _ in rows], [[] for _ in rows]
        ids = torch.tensor(rows, device=self.model.device)
        logits = at_least_float32(self.model(input_ids=ids).logits[:, :-1])
        nats = functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        return nats.double().tolist(), (logits.argmax(-1) == ids[:, 1:]).tolist()


def _mean_reading(weights: Sequence[float], readings: Sequence[_Reading]) -> _Reading:
    """Return the weighted mean of readings of one text, whose words and tokens are the same in all."""
    nats, hits = (
        tuple(sum(w * v for w, v in zip(weights, values, strict=True)) for values in zip(*columns, strict=True))
        for columns in ([reading.nats for reading in readings], [reading.hits for reading in readings])
    )
    return _Reading(readings[0].words, nats, readings[0].tokens, hits)


def _by_word(text: str, offsets: Sequence[tuple[int, int]], nats: Sequence[float], hits: Sequence[bool]) -> _Reading:
    words, starts = [], []
    at = 0
    for word in text.split():
        starts.append(text.index(word, at))
        at = starts[-1] + len(word)
        words.append(word)
    sums, counts, right = [0.0] * len(words), [0] * len(words), [0] * len(words)
    ends = [start + len(word) for start, word in zip(starts, words, strict=True)]
    owner = 0
    for (_, end), nat, hit in zip(offsets[1:], nats, hits, strict=True):
        # a token belongs to the word in which it ends; a token of white space belongs to the word after it
        while owner < len(words) and ends[owner] < end:
            owner += 1
        if owner == len(words):
            break
        sums[owner], counts[owner], right[owner] = sums[owner] + nat, counts[owner] + 1, right[owner] + hit
    return _Reading(tuple(words), tuple(sums), tuple(counts), tuple(right))


def _common(clean: _Reading, changed: _Reading) -> tuple[float, float, float, float]:
    """Return (NLL, accuracy) of the clean and of the changed text, over the words that both have; zeros without any."""
    blocks = SequenceMatcher(None, clean.words, changed.words, autojunk=False).get_matching_blocks()
    pairs = [(block.a + i, block.b + i) for block in blocks for i in range(block.size)]
    # a word that the longest length cuts off in one of them is not scored there
    pairs = [(a, b) for a, b in pairs if clean.tokens[a] == changed.tokens[b]]
    found: list[float] = []
    for reading, places in ((clean, [a for a, _ in pairs]), (changed, [b for _, b in pairs])):
        tokens = max(1, sum(reading.tokens[place] for place in places))
        found.append(sum(reading.nats[place] for place in places) / tokens)
        found.append(sum(reading.hits[place] for place in places) / tokens)
    return found[0], found[1], found[2], found[3]


def _rise(before: float, after: float) -> float:
    return after / max(before, _LEAST_NATS) - 1 if after else 0.0
