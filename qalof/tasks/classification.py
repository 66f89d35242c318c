"""Text classification with GPT-2's classifier head, which reads the last token of a text.

The data is read by :mod:`qalof.tasks.classification_data`, or comes from the hub.

Scoring batches texts of *equal* length, so nothing is ever padded. GPT-2 has no pad token of its own, and pad is eos
here: the classifier finds the last token of a text by looking for pads, which would fail for a text that really ends in
eos. Padding with a mask was rejected for scoring for one more reason: an activation scale coarser than a token would
include the pads in its maximum. Training pads, since its batches are drawn at random; right padding does not change the
row of the last real token under a causal mask. A text longer than ``max_length`` keeps its beginning; the cut texts are
counted per split.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from qalof.batching import Progress, attention_mask, by_equal_length, pad_right
from qalof.digests import content_digest, tokenizer_digest
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.laws import Count, check_numbers
from qalof.metrics import ADVERSARIAL_ACCURACY
from qalof.model.pretrained import HeadKind
from qalof.paths import DataPath
from qalof.precision import at_least_float32
from qalof.tasks.base import Batch, Feature, TrainingData, chosen
from qalof.tasks.classification_data import LABELS_FILE, LabeledText, existing, find_file, label_names, read_texts
from qalof.tasks.classification_hub import hub_labels, hub_texts, is_hub_name
from qalof.tasks.squad_data import parse_split


@dataclass(frozen=True)
class ClassificationSettings:
    """The data of text classification, and how long texts may be."""

    data: DataPath = "tiny"
    """The data: ``tiny``, a folder, a file with training examples, or a hub name such as ``fancyzhx/ag_news``
    (:mod:`qalof.tasks.classification_hub`). It names the labels."""
    validation_data: DataPath | None = None
    """The data to score on in place of ``data``, with the same labels; null scores on ``data``."""
    train_split: str = "train"
    """The split to train on, such as ``train``, or ``train[:1000]`` for its first 1,000 examples."""
    validation_split: str = "validation"
    """The split to score on, such as ``validation``, or ``validation[:500]`` for its first 500 examples."""
    max_length: Count = 128
    """The most tokens of a text; a longer text keeps its beginning."""
    eval_batch_size: Count = 64
    """How many examples are scored at once; no score depends on it."""

    def __post_init__(self) -> None:
        check_numbers(self)

    def read(self, split: str) -> list[LabeledText]:
        """Return the examples of a split, in the order of the file.

        Raises:
            BadInputError: See :func:`read_texts`.
        """
        name, limit = parse_split(split)
        source = self.validation_data if name == "validation" and self.validation_data else self.data
        if is_hub_name(source):
            found = [LabeledText(*row) for row in hub_texts(source, name)][:limit]
        else:
            found = read_texts(find_file(source, name), len(self.label_names()))[:limit]
        if not found:
            raise BadInputError(f"a split must hold at least one text: {source} {split} holds none; take more")
        return found

    def label_names(self) -> tuple[str, ...]:
        """Return the names of the classes.

        Raises:
            BadInputError: See :func:`label_names`.
        """
        if is_hub_name(self.data):
            return hub_labels(self.data)
        return label_names(self._folder(), existing(self.data).stem)

    def beside(self) -> list[Path]:
        """Return the file of the label names, which may lie one folder above the data."""
        local = self.data != "tiny" and not is_hub_name(self.data)
        folders = (self._folder(), self._folder().parent) if local else ()
        return [folder / LABELS_FILE for folder in folders if (folder / LABELS_FILE).is_file()][:1]

    def _folder(self) -> Path:
        path = Path(os.path.abspath(existing(self.data)))  # noqa: PTH100 - a link has other neighbors than its target
        return path.parent if path.is_file() else path


class ClassificationTask:
    """``classification``; see :class:`qalof.tasks.base.Task`."""

    name = "classification"
    head = HeadKind.CLASSIFIER
    primary_metric = "accuracy"
    metrics = ("accuracy", "loss", ADVERSARIAL_ACCURACY)

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, settings: ClassificationSettings | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        self.tokenizer, self.settings = tokenizer, settings or ClassificationSettings()
        self.label_names = tuple(label_names or self.settings.label_names())
        self.labels: int | None = len(self.label_names)

    @cached_property
    def validation(self) -> list[LabeledText]:
        """The validation examples."""
        return self.settings.read(self.settings.validation_split)

    def fingerprint(self) -> str:
        """Return a digest of the validation data, the tokenizer and the settings."""
        # sizes of batches and the names of files change no feature and no score
        unheard = ("data", "validation_data", "eval_batch_size")
        settings = {k: v for k, v in asdict(self.settings).items() if k not in unheard}
        return content_digest(self.name, self.validation, self.label_names, settings, tokenizer_digest(self.tokenizer))

    def train_features(self) -> Sequence[Feature]:
        """Return input_ids and label of every training text."""
        return self._training.features

    def train_counts(self) -> dict[str, int]:
        """Return ``truncated``, the number of texts longer than ``max_length``."""
        return self._training.counts

    @cached_property
    def _training(self) -> TrainingData:
        examples = self.settings.read(self.settings.train_split)
        ids, cut = self.encode([example.text for example in examples])
        features = [{"input_ids": row, "label": example.label} for row, example in zip(ids, examples, strict=True)]
        return TrainingData(features, {"truncated": sum(cut)})

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Return the token ids of each text, and whether it was cut."""
        encoded = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        limit = self.settings.max_length
        cut = [len(ids) > limit for ids in encoded]
        # a text of which the tokenizer keeps nothing still gets one token, since a classifier reads the last one
        nothing = [int(self.tokenizer.pad_token_id or 0)]
        return [ids[:limit] or nothing for ids in encoded], cut

    @cached_property
    def _validation_ids(self) -> tuple[list[list[int]], list[bool]]:
        return self.encode([example.text for example in self.validation])

    def units(self, feature: Feature) -> float:
        """Return 1: a text has one label row."""
        return 1.0

    def collate(self, features: Sequence[Feature]) -> Batch:
        """Return input_ids and attention_mask (B, T), and labels (B,)."""
        ids = [feature["input_ids"] for feature in features]
        return {
            "input_ids": pad_right(ids, int(self.tokenizer.pad_token_id or 0)),
            "attention_mask": attention_mask(ids),
            "labels": torch.tensor([feature["label"] for feature in features]),
        }

    def model_inputs(self, batch: Batch) -> Batch:
        """Return ids and mask."""
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def labeled(self, batch: Batch) -> None:
        """Return None: a label belongs to a whole text."""

    def label_rows(self, outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return class logits (B, labels) and labels (B,)."""
        return outputs.logits, batch["labels"]

    @torch.no_grad()
    def evaluate(
        self, model: Any, *, limit: int | None = None, skip: int = 0, progress: Progress | None = None
    ) -> Evaluation:
        """Return accuracy in percent and mean cross entropy in nats."""
        labels = torch.tensor([example.label for example in chosen(self.validation, limit, skip)])
        rows, cut = self._validation_ids
        logits = class_logits(model, rows[skip:][:limit], self.settings.eval_batch_size, progress)
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none").tolist()
        correct = [100.0 * hit for hit in (logits.argmax(-1) == labels).tolist()]
        count = len(labels)
        metrics = {"accuracy": sum(correct) / count, "loss": sum(losses) / count}
        return Evaluation(metrics, count, {"accuracy": correct, "loss": losses}, {"truncated": sum(cut[skip:][:limit])})


def class_logits(
    model: Any, rows: Sequence[Sequence[int]], batch_size: int, progress: Progress | None = None
) -> torch.Tensor:
    """Return logits (len(rows), classes), fp32 at least, on the CPU, of token id rows; a batch has rows of one
    length.
    """
    device = model.device
    parts: dict[int, torch.Tensor] = {}
    for batch in by_equal_length([len(row) for row in rows], batch_size):
        ids = torch.tensor([list(rows[index]) for index in batch], device=device)
        parts |= dict(zip(batch, at_least_float32(model(input_ids=ids).logits).cpu(), strict=True))
        if progress:
            progress(len(parts), len(rows))
    return torch.stack([parts[index] for index in range(len(rows))])
