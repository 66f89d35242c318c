"""The labels of many changes of one text: what they share at the beginning is computed once.

An attack on words asks about texts that differ in one word: the text without each word in turn, and the text with each
substitute in the place of one.  Under a causal mask the keys and values of the tokens before the change are those of
the unchanged text, so one of the texts is read whole, and of each other only what follows the tokens that it shares
with that one.  On average this is half of a text.

A reading equals that of the whole text up to the last bits of its sums, as another batch does.  It takes several passes
of fewer tokens in place of one, so it is for a CPU, where time is in the tokens; a GPU has its time in the passes.
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from qalof.attacks.victim import transformers_model
from qalof.batching import attention_mask, by_length, pad_right
from qalof.precision import at_least_float32

ROWS = 256
"""The most texts in one forward pass."""

LEAST_SHARED = 0.125
"""The share of the tokens of a group that must be saved; otherwise its rows are read whole."""

SHORTEST = 0.6
"""The length of a batch's shortest rest over that of its longest: less of a pass is padding, more are passes."""


class _Rest(NamedTuple):
    """What is left of a row beyond the tokens that it shares with the row that was read whole."""

    row: int
    base: int
    shared: int
    ids: Sequence[int]


@dataclass
class ChangeReader:
    """Reads the labels of token id rows.

    Args:
        model: a :class:`~qalof.model.switchable.SwitchableModel` with a classifier head, or a transformers classifier.
        tokenizer: its tokenizer.
    """

    model: Any
    tokenizer: Any

    @property
    def pad(self) -> int:
        """The token that fills rows up."""
        own = transformers_model(self.model).config.pad_token_id
        return int(self.tokenizer.pad_token_id if own is None else own)

    @property
    def shares(self) -> bool:
        """Whether prefixes are shared: on a CPU, where a prefix means the same whatever follows it.

        That is so where positions can be given, all layers see and keep all keys and values (GPT-Neo's local ones count
        places in the cache), and no token is rounded by a range that later tokens have a part in.
        """
        plain, settings = transformers_model(self.model), getattr(self.model, "settings", None)
        if self.model.device.type != "cpu":
            return False
        cache = DynamicCache(config=plain.config)
        return (
            "position_ids" in inspect.signature(plain.forward).parameters
            and "local" not in getattr(plain.config, "attention_layers", ())
            and bool(cache.layers)
            and all(type(layer) is DynamicLayer for layer in cache.layers)
            and not (settings is not None and settings.quantization.activation.row_ranges)
        )

    @torch.no_grad()
    def logits(self, groups: Sequence[Sequence[Sequence[int]]]) -> list[torch.Tensor]:
        """Return logits (rows, classes) of each group of rows, fp32 at least, on the CPU.

        The rows of a group are changes of one text; several groups are read in the same passes.
        """
        rows = [row for group in groups for row in group]
        bases = self._bases(groups) if self.shares else {}
        found = self._whole([row for row in range(len(rows)) if row not in bases], rows)
        found |= self._changed(bases, rows)
        return list(torch.stack([found[row] for row in range(len(rows))]).split([len(group) for group in groups]))

    def _bases(self, groups: Sequence[Sequence[Sequence[int]]]) -> dict[int, int]:
        """Return, for every row of the groups whose rows share enough, the row of its group that is read whole."""
        bases: dict[int, int] = {}
        first = 0
        for group in groups:
            # the classifier finds the last token of a row by looking for pads: one that ends in a pad is read alone
            own = [first + place for place, row in enumerate(group) if row[-1] != self.pad]
            first += len(group)
            if len(own) < 2:
                continue
            texts = [group[row - first + len(group)] for row in own]
            base, saved = most_shared(texts)
            if saved >= LEAST_SHARED * sum(map(len, texts)):
                bases |= dict.fromkeys(own, own[base])
        return bases

    def _whole(self, chosen: Sequence[int], rows: Sequence[Sequence[int]]) -> dict[int, torch.Tensor]:
        padded = [row for row in chosen if rows[row][-1] != self.pad]
        batches = [[padded[place] for place in batch] for batch in by_length([len(rows[r]) for r in padded], ROWS)]
        found: dict[int, torch.Tensor] = {}
        for batch in [*batches, *([row] for row in chosen if rows[row][-1] == self.pad)]:
            own = [rows[row] for row in batch]
            masked = {} if len({len(row) for row in own}) == 1 else {"attention_mask": self._on(attention_mask(own))}
            read = self.model(input_ids=self._on(pad_right(own, self.pad)), **masked)
            found |= _by_row(batch, read)
        return found

    def _changed(self, bases: dict[int, int], rows: Sequence[Sequence[int]]) -> dict[int, torch.Tensor]:
        distinct = list(dict.fromkeys(bases.values()))
        found: dict[int, torch.Tensor] = {}
        for start in range(0, len(distinct), ROWS):
            read = distinct[start : start + ROWS]
            own = [rows[row] for row in read]
            outputs = self.model(
                input_ids=self._on(pad_right(own, self.pad)), attention_mask=self._on(attention_mask(own)),
                past_key_values=DynamicCache(config=transformers_model(self.model).config), use_cache=True,
            )  # fmt: skip
            found |= _by_row(read, outputs)
            place = {row: index for index, row in enumerate(read)}
            rests = [
                _Rest(row, place[base], shared, rows[row][shared:])
                for row, base in bases.items()
                if base in place and row != base
                for shared in [min(common(rows[row], rows[base]), len(rows[row]) - 1)]
            ]
            for batch in _alike(rests):
                found |= self._rests(batch, outputs.past_key_values)
        return found

    def _rests(self, batch: Sequence[_Rest], cache: DynamicCache) -> dict[int, torch.Tensor]:
        """Read the rests of rows after the keys and values that they share with their bases."""
        longest = max(rest.shared for rest in batch)
        ids = [rest.ids for rest in batch]
        before = torch.arange(longest) < torch.tensor([[rest.shared] for rest in batch])
        places = torch.tensor([[rest.shared] for rest in batch]) + torch.arange(max(map(len, ids)))
        own = copy.deepcopy(cache)
        own.crop(longest - cache.get_seq_length())
        own.batch_select_indices(self._on(torch.tensor([rest.base for rest in batch])))
        outputs = self.model(
            input_ids=self._on(pad_right(ids, self.pad)), position_ids=self._on(places), use_cache=True,
            attention_mask=self._on(torch.cat([before.long(), attention_mask(ids)], dim=1)), past_key_values=own,
        )  # fmt: skip
        return _by_row([rest.row for rest in batch], outputs)

    def _on(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.model.device)


def _by_row(rows: Sequence[int], outputs: Any) -> dict[int, torch.Tensor]:
    """Return the logits of each row, fp32 at least, on the CPU."""
    return dict(zip(rows, at_least_float32(outputs.logits).cpu(), strict=True))


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two rows share at the beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def most_shared(rows: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return the row with which the others share most tokens at the beginning, and how many they are in all."""
    seen = Counter(tuple(row[:end]) for row in rows for end in range(1, len(row) + 1))
    shared = [sum(seen[tuple(row[:end])] - 1 for end in range(1, len(row) + 1)) for row in rows]
    best = max(range(len(rows)), key=shared.__getitem__)
    return best, shared[best]


def _alike(rests: Sequence[_Rest]) -> Iterator[list[_Rest]]:
    """Yield batches of rests of similar length, the longest first; ties keep their order."""
    batch: list[_Rest] = []
    for rest in sorted(rests, key=lambda each: -len(each.ids)):
        if batch and (len(batch) == ROWS or len(rest.ids) < SHORTEST * len(batch[0].ids)):
            yield batch
            batch = []
        batch.append(rest)
    if batch:
        yield batch
