"""Similarity of two texts by a real sentence encoder from a folder, such as ``cache:all-MiniLM-L6-v2``.

The encoder is a transformer of the BERT kind in Hugging Face format. A text's vector is the mean of the last hidden
states over its tokens, normalized, as sentence-transformers computes it for such models; a longer text than the encoder
reads keeps its beginning.  It takes the place of the Universal Sentence Encoder in TextFooler and BERT-Attack, and it
judges whether an attacked text still means what it did.  The stand-in without a download is
:class:`~qalof.attacks.substitutes.similarity.StateSimilarity`; thresholds of the two are not comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoModel

from qalof.attacks.substitutes.bert_folder import bert_folder, load_bert, longest_text
from qalof.attacks.substitutes.similarity import Metric, Similarity, StateSimilarity, in_metric
from qalof.batching import attention_mask, by_equal_length, by_length, pad_right
from qalof.errors import BadInputError
from qalof.precision import at_least_float32

STATES = "states"
"""The name of the stand-in: mean hidden states of the attack's language model."""

AT_ONCE = 128
_WHAT = "sentence encoder"
_WAY_OUT = f"give the folder of a sentence encoder in Hugging Face format, or {STATES!r}"


class EncoderSimilarity:
    """See the module's docstring.

    Args:
        source: a folder, or ``cache:NAME``.
        metric: of the two vectors.
        device: where the encoder runs.

    Raises:
        BadInputError: as :func:`check_encoder`, or its weights do not load.
    """

    def __init__(self, source: str, metric: Metric, device: Any = "cpu") -> None:
        folder = check_encoder(source)
        self._metric, self._device = metric, torch.device(device)
        self._model, self._tokenizer = _loaded(folder, str(self._device))
        self._longest = longest_text(self._model)
        self.name = f"{_WHAT} {Path(folder).name}, {metric}"
        self._kept: dict[str, torch.Tensor] = {}

    def of(self, reference: str, texts: Sequence[str]) -> list[float]:
        """Return the similarity of each text to ``reference``: at most 1, and 1 for the same text."""
        if self._kept.keys() != {reference}:
            self._kept = {reference: self.vectors([reference])[0]}  # a search compares many texts with one
        cosines = (self.vectors(texts) @ self._kept[reference]).clamp(-1, 1).double().tolist() if texts else []
        return in_metric([1.0 if t == reference else c for t, c in zip(texts, cosines, strict=True)], self._metric)

    def of_all(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        """Return the similarities of several references with their texts, whose vectors are made in one go."""
        distinct = list(dict.fromkeys(text for reference, texts in asked for text in (reference, *texts)))
        made = dict(zip(distinct, self.vectors(distinct, padded=True), strict=True))
        found = []
        for reference, texts in asked:
            cosines = [float((made[text] @ made[reference]).clamp(-1, 1).double()) for text in texts]
            exact = [1.0 if text == reference else cosine for text, cosine in zip(texts, cosines, strict=True)]
            found.append(in_metric(exact, self._metric))
        return found

    @torch.no_grad()
    def vectors(self, texts: Sequence[str], padded: bool = False) -> torch.Tensor:
        """Return (len(texts), features), fp32, on the CPU, each of length 1; ``padded`` batches unequal lengths."""
        rows = self._tokenizer(list(texts), truncation=True, max_length=self._longest)["input_ids"]
        found: dict[int, torch.Tensor] = {}
        lengths = [len(row) for row in rows]
        for batch in by_length(lengths, 2 * AT_ONCE) if padded else by_equal_length(lengths, AT_ONCE):
            own = [rows[index] for index in batch]
            mask = attention_mask(own).to(self._device)
            ids = pad_right(own, self._tokenizer.pad_token_id or 0).to(self._device)
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
            means = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            found |= dict(zip(batch, functional.normalize(at_least_float32(means), dim=-1).cpu(), strict=True))
        return torch.stack([found[index] for index in range(len(rows))])


def check_encoder(source: str) -> str:
    """Return the folder of a sentence encoder.

    Raises:
        BadInputError: there is no such folder, or it holds no model of the BERT kind.
    """
    folder, config, both = bert_folder(source, _WHAT, _WAY_OUT)
    if not both:
        raise BadInputError(
            f"a {_WHAT} must read a text in both directions, as BERT does: {source} holds a "
            f"{config.model_type} model; {_WAY_OUT}"
        )
    return folder


def similarity_of(
    source: str, lm: Any, tokenizer: Any, metric: Metric, layer: int | None = None, idf: Sequence[float] | None = None
) -> Similarity:
    """Return the similarity that a setting names: :data:`STATES` for mean hidden states of ``lm``, or an encoder.

    Raises:
        BadInputError: as :class:`EncoderSimilarity` and :class:`StateSimilarity`.
    """
    if source == STATES:
        return StateSimilarity(lm, tokenizer, metric, layer, idf)
    return EncoderSimilarity(source, metric, lm.device)


@lru_cache(maxsize=2)
def _loaded(folder: str, device: str) -> tuple[Any, Any]:
    return load_bert(AutoModel, folder, device, _WHAT, _WAY_OUT)
