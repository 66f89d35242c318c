"""The similarity of two texts by the mean of a language model's hidden states, in place of a sentence encoder.

    u(x) = sum_i w_i h_i(x) / sum_i w_i,    cosine: cos(u, v);    angular: 1 - arccos(cos(u, v)) / pi

h: states after the middle layer (or another); w: idf of each token, or 1.  A text's first position is left out where
there are others, because its state says little but that it is the first.  Such means have similar directions,
especially in GPT-2, so thresholds made for a sentence encoder let more pass here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch.nn import functional

from qalof.attacks.goal import TOKENS_AT_ONCE
from qalof.attacks.victim import transformers_model
from qalof.batching import by_equal_length
from qalof.errors import BadInputError
from qalof.evaluation.loglikelihood import most_tokens

Metric = Literal["angular", "cosine"]


class Similarity(Protocol):
    """A judge of how close in meaning two texts are."""

    name: str

    def of(self, reference: str, texts: Sequence[str]) -> list[float]:
        """Return the similarity of each text to ``reference``: at most 1, and 1 for the same text."""
        ...


Ask = Callable[[str, Callable[[Sequence[Any]], Sequence[Any]], Any], Any]
"""A function that is called with a kind of question, what answers questions of that kind together, and the content of
one."""


class SharedSimilarity:
    """A similarity whose questions are answered together with those of other attacks.

    A judge of pairs is asked pair by pair; one that compares vectors (it has ``vectors`` and a ``metric``) gets all
    texts of a round at once.
    """

    def __init__(self, judge: Any, ask: Ask) -> None:
        self._judge, self._ask, self.name = judge, ask, judge.name

    def of(self, reference: str, texts: Sequence[str]) -> list[float]:
        """Return the similarity of each text to ``reference``."""
        found: list[float] = self._ask("similarity", self._serve, (reference, list(texts)))
        return found

    def _serve(self, asked: Sequence[tuple[str, list[str]]]) -> Sequence[list[float]]:
        if not hasattr(self._judge, "of_all"):
            return [self._judge.of(reference, texts) for reference, texts in asked]
        answers: Sequence[list[float]] = self._judge.of_all(asked)
        return answers


def in_metric(cosines: Sequence[float], metric: Metric) -> list[float]:
    """Return cosines as they are, or as 1 - arccos(cosine) / pi."""
    return list(cosines) if metric == "cosine" else [1 - math.acos(cosine) / math.pi for cosine in cosines]


class StateSimilarity:
    """See the module's docstring.

    Args:
        lm: a causal LM, switchable or plain.
        tokenizer: of it.
        metric: of the two means.
        layer: hidden states after so many blocks; None for half of them.
        idf: weight of each token id; None for a plain mean.

    Raises:
        BadInputError: no such layer, or another number of weights than tokens.
    """

    def __init__(
        self, lm: Any, tokenizer: Any, metric: Metric, layer: int | None = None, idf: Sequence[float] | None = None
    ) -> None:
        self._lm, self._tokenizer, self._metric = transformers_model(lm), tokenizer, metric
        layers, size = int(self._lm.config.num_hidden_layers), len(self._lm.get_input_embeddings().weight)
        self._layer = layers // 2 if layer is None else layer
        if not 0 <= self._layer <= layers:
            raise BadInputError(f"layer must lie from 0 to the language model's {layers}: got {layer}")
        if idf is not None and len(idf) != size:
            raise BadInputError(f"idf must have the language model's {size} tokens: got {len(idf)}")
        self._device = self._lm.device
        self._weights = torch.tensor(idf or [1.0] * size, dtype=torch.float64, device=self._device)
        self.name = f"{'idf-weighted ' if idf else ''}mean states after layer {self._layer}, {metric}"

    def of(self, reference: str, texts: Sequence[str]) -> list[float]:
        """Return the similarity of each text to ``reference``: at most 1, and 1 for the same text."""
        means = self._means([reference, *texts])
        cosines = functional.cosine_similarity(means[:1], means[1:]).clamp(-1, 1).double().tolist()
        return in_metric(cosines, self._metric)

    @torch.no_grad()
    def _means(self, texts: Sequence[str]) -> torch.Tensor:
        """Return (len(texts), features) in fp64; a text without tokens gives zeros."""
        rows = [
            row[: most_tokens(self._lm)]
            for row in self._tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        ]
        found = torch.zeros(len(rows), int(self._lm.config.hidden_size), dtype=torch.float64, device=self._device)
        longest = max(1, max(map(len, rows)))
        for batch in by_equal_length([len(row) for row in rows], max(1, TOKENS_AT_ONCE // longest)):
            ids = torch.tensor([rows[index] for index in batch], dtype=torch.int64, device=self._device)
            if not ids.shape[1]:
                continue
            first = 1 if ids.shape[1] > 1 else 0
            states = self._lm(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[self._layer]
            weights = self._weights[ids[:, first:], None]
            total = weights.sum(1).clamp_min(torch.finfo(torch.float64).tiny)
            found[batch] = (states[:, first:].double() * weights).sum(1) / total
        return found
