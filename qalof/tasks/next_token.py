"""The base of tasks whose labels are the next tokens of a text: batches, and the logits that belong to labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from qalof.batching import attention_mask, pad_right
from qalof.evaluation.full_precision import FullPrecision
from qalof.evaluation.label_rows import LabeledBatch
from qalof.model.language_head import head_at, rows_of
from qalof.precision import at_least_float32
from qalof.tasks.base import Batch, Feature

IGNORED = -100


class Sums(NamedTuple):
    """What the labeled tokens of one feature add up to.

    Attributes:
        nats: their cross entropy.
        hits: how many of them the model finds likeliest.
        kl: their divergence from full precision in nats; 0 where it was not asked for.
    """

    nats: float
    hits: int
    kl: float


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

    def sums(self, model: Any, features: Sequence[Feature], full: FullPrecision | None = None) -> list[Sums]:
        """Run ``model``, and return the sums of each feature's labeled tokens.

        Args:
            model: at any bitmap, called as a transformers model.
            features: of one batch.
            full: what the model predicts at full precision; None leaves the divergence out.
        """
        batch = {name: tensor.to(model.device) for name, tensor in self.collate(features).items()}
        inputs, kept = self.model_inputs(batch), self.labeled(batch)
        if full is None:
            kl = None
            with head_at(model, kept):
                outputs = model(**inputs)
        else:
            outputs, kl = full.run(model, LabeledBatch(inputs, partial(self.label_rows, batch=batch), kept))
        logits, labels = self.label_rows(outputs, batch)
        each = torch.nn.functional.cross_entropy(logits, labels, reduction="none").double()
        hits = logits.argmax(dim=-1) == labels
        counts = kept.sum(dim=1).tolist()
        apart = torch.zeros_like(each) if kl is None else kl.double()
        parts = zip(each.split(counts), hits.split(counts), apart.split(counts), strict=True)
        return [Sums(float(nats.sum()), int(right.sum()), float(kls.sum())) for nats, right, kls in parts]
