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

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
from qalof.tasks.class_labels import (
    Columns,
    LabeledText,
    Labels,
    Rows,
    check_classes,
    label_names_in,
    labeled,
)
from qalof.tasks.classification_data import LABELS_FILE, labels_file, read_names, split_rows
from qalof.tasks.classification_hub import hub_names, hub_rows, is_hub_name
from qalof.tasks.splits import sliced


@dataclass(frozen=True)
class ClassificationSettings:
    """The data of text classification, which class each of its labels is, and how long texts may be."""

    data: DataPath = "tiny"
    """The data: ``tiny``, a folder, a file with training examples, or a hub name such as ``fancyzhx/ag_news``
    (:mod:`qalof.tasks.classification_hub`). It names the classes."""
    validation_data: DataPath | None = None
    """The data to score on in place of ``data``, whose labels find their classes by name; null scores on ``data``."""
    train_split: str = "train"
    """The split to train on, such as ``train``, or ``train[:1000]`` for its first 1,000 examples."""
    validation_split: str = "validation"
    """The split to score on, such as ``validation`` or ``test``, or ``test[:500]`` for its first 500 examples."""
    max_length: Count = 128
    """The most tokens of a text; a longer text keeps its beginning."""
    eval_batch_size: Count = 64
    """How many examples are scored at once; no score depends on it."""
    subset: str | None = None
    """The subset of a hub data set that has several, such as ``sst2`` of ``nyu-mll/glue``."""
    text_column: str | None = None
    """The column of the texts; null takes ``text``, or else ``sentence``."""
    label_column: str | None = None
    """The column of the labels; null takes ``label``."""
    classes: tuple[str, ...] | None = None
    """The names of the classes, in the order of the model's outputs; null takes those that ``label_map`` names, or else
    those of the data. A checkpoint keeps those that it was trained for."""
    label_map: dict[object, str] | None = None
    """The class of each label that the data calls otherwise, such as ``{neg: negative, pos: positive}``; null where a
    label is the name of its class, or a number that stands for it."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.label_map is not None:
            for label in self.label_map:
                if isinstance(label, bool) or not isinstance(label, str | int):
                    raise BadInputError(f"a key of label_map must be a text or a whole number: got {label}; quote it")
            # JSON has no other keys than text
            object.__setattr__(self, "label_map", {str(label): name for label, name in self.label_map.items()})
        if self.classes is not None:
            object.__setattr__(self, "classes", tuple(self.classes))
            check_classes(self.classes, "classes")

    def train_texts(self) -> list[LabeledText]:
        """Return the examples to train on, in the order of the data.

        Raises:
            BadInputError: See :func:`qalof.tasks.class_labels.labeled`.
        """
        return self._read(self.data, self.train_split)[0]

    def validation_texts(self) -> tuple[list[LabeledText], dict[str, int]]:
        """Return the examples to score on, in the order of the data, and the index of the class of each label there.

        Raises:
            BadInputError: See :func:`qalof.tasks.class_labels.labeled`.
        """
        return self._read(self.validation_data or self.data, self.validation_split)

    def label_names(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of the model's outputs.

        Raises:
            BadInputError: The data cannot be read, or nothing names two or more classes.
        """
        if self.classes is not None:
            return self.classes
        if self.label_map:
            return check_classes(tuple(dict.fromkeys(self.label_map.values())), "the classes of label_map")
        names = self._own_names()
        if names is None:
            split, _ = sliced(self.train_split)
            names = label_names_in(self._rows(self.data, split, None), self._columns)
        if names is None:
            raise BadInputError(
                f"data {self.data} needs its label names: put {LABELS_FILE}, a list of names, there, or name the class "
                "of each label by task.settings.label_map"
            )
        return check_classes(names, f"the classes of {self.data}")

    def beside(self) -> list[Path]:
        """Return the files of the label names, which may lie one folder above the data."""
        sources = [each for each in (self.data, self.validation_data) if each and each != "tiny"]
        found = [labels_file(source) for source in sources if not is_hub_name(source)]
        return list(dict.fromkeys(file for file in found if file is not None))

    @property
    def _columns(self) -> Columns:
        return Columns(self.text_column, self.label_column)

    def _rows(self, source: str, split: str, limit: int | None) -> Rows:
        if is_hub_name(source):
            return hub_rows(source, self.subset, split, limit, self._columns)
        return split_rows(source, split, limit)

    def _own_names(self) -> tuple[str, ...] | None:
        """Return the names that the numbers among the labels of ``data`` stand for; None where it does not say."""
        return hub_names(self.data, self.subset, self._columns) if is_hub_name(self.data) else read_names(self.data)

    def _read(self, source: str, split: str) -> tuple[list[LabeledText], dict[str, int]]:
        name, limit = sliced(split)
        if limit == 0:
            raise BadInputError(f"a split must hold at least one text: {source} {split} holds none; take more")
        rows, classes = self._rows(source, name, limit), self.label_names()
        own = rows.names or self._own_names() or classes
        return labeled(rows, self._columns, Labels(classes, own, self.label_map or {}))


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
        settings = settings or ClassificationSettings()
        self.label_names = tuple(label_names or settings.label_names())
        self.tokenizer, self.settings = tokenizer, replace(settings, classes=self.label_names)
        self.labels: int | None = len(self.label_names)

    @property
    def validation(self) -> list[LabeledText]:
        """The validation examples."""
        return self._validation[0]

    @cached_property
    def _validation(self) -> tuple[list[LabeledText], dict[str, int]]:
        return self.settings.validation_texts()

    def label_mapping(self) -> str:
        """Say which classes there are, and which of them each label of the validation data is."""
        classes = ", ".join(f"{index} {name}" for index, name in enumerate(self.label_names))
        seen = sorted(self._validation[1].items(), key=lambda pair: (pair[1], pair[0]))
        told = ", ".join(f"{label} is {self.label_names[index]}" for label, index in seen)
        return f"classes: {classes}; labels in {self.settings.validation_data or self.settings.data}: {told}"

    def fingerprint(self) -> str:
        """Return a digest of the validation data, the tokenizer and the settings."""
        # sizes of batches, and where and how texts and labels stand in the data, change no feature and no score
        unheard = {
            "data", "validation_data", "subset", "eval_batch_size", "text_column", "label_column", "classes",
            "label_map",
        }  # fmt: skip
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
        examples = self.settings.train_texts()
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
