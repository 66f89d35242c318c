"""The base of tasks whose labels are the next tokens of a text: batches, and the logits that belong to labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from qalof.batching import attention_mask, pad_right
from qalof.model.language_head import head_at, rows_of
from qalof.precision import at_least_float32
from qalof.tasks.base import Batch, Feature

IGNORED = -100


class NextToken:
    """Base of tasks on ``input_ids``; a subclass says where the labeled tokens of a feature begin."""

    tokenizer: PreTrainedTokenizerBase

    def first_label(self, feature: Feature) -> int:
        """Return the index, at least 1, of the first token that is a label; all tokens after it are labels too."""
        raise NotImplementedError

    def units(self, feature: Feature) -> float:
        """Return the number of labeled tokens, each of which is a label row."""
        return float(len(feature["input_ids"]) - self.first_label(feature))

    def collate(self, features: Sequence[Feature]) -> Batch:
        """Return input_ids, attention_mask and labels (B, T); a label is at the position whose *next* token it is."""
        ids = [feature["input_ids"] for feature in features]
        firsts = [self.first_label(feature) for feature in features]
        labels = [
            [IGNORED] * (first - 1) + list(row[first:]) + [IGNORED] for row, first in zip(ids, firsts, strict=True)
        ]
        return {
            "input_ids": pad_right(ids, int(self.tokenizer.pad_token_id or 0)),
            "attention_mask": attention_mask(ids),
            "labels": pad_right(labels, IGNORED),
        }

    def model_inputs(self, batch: Batch) -> Batch:
        """Return ids and mask."""
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def labeled(self, batch: Batch) -> torch.Tensor:
        """Return which tokens have a label, (B, T) boolean."""
        return batch["labels"] != IGNORED

    def label_rows(self, outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (labeled tokens, V) and the tokens (labeled tokens,)."""
        kept = self.labeled(batch)
        return at_least_float32(rows_of(outputs.logits, kept)), batch["labels"][kept]

    def sums(self, model: Any, features: Sequence[Feature]) -> list[tuple[float, int]]:
        """Return, per feature, the cross entropy in nats of its labeled tokens under ``model``, and how many of them
        were the likeliest.
        """
        batch = {name: tensor.to(model.device) for name, tensor in self.collate(features).items()}
        kept = self.labeled(batch)
        with head_at(model, kept):
            logits, labels = self.label_rows(model(**self.model_inputs(batch)), batch)
        each = torch.nn.functional.cross_entropy(logits, labels, reduction="none").double()
        hits = logits.argmax(dim=-1) == labels
        counts = kept.sum(dim=1).tolist()
        parts = zip(each.split(counts), hits.split(counts), strict=True)
        return [(float(nats.sum()), int(right.sum())) for nats, right in parts]
