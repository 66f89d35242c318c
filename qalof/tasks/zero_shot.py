"""Zero-shot multiple choice: the likeliest continuation is the answer (docs/methods/tasks.md, "zero-shot").

    acc: argmax of the summed log-likelihood;   acc_norm: of that divided by the choice's characters

Nothing is trained for it: the task evaluates checkpoints of other tasks (``qalof evaluate`` with ``task``). Prompts and
tokenization are those of lm-evaluation-harness, which :mod:`qalof.evaluation.lm_eval_adapter` also drives directly; a
test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from qalof.batching import Progress
from qalof.digests import content_digest, tokenizer_digest
from qalof.errors import BadInputError
from qalof.evaluation.loglikelihood import encode_pair, most_tokens, score_pairs
from qalof.evaluation.result import Evaluation
from qalof.laws import Count, Law, check_numbers
from qalof.model.pretrained import HeadKind
from qalof.paths import DataPath
from qalof.tasks.base import Batch, Feature, chosen
from qalof.tasks.zero_shot_data import BENCHMARKS, Dataset, Item, load_items


@dataclass(frozen=True)
class ZeroShotSettings:
    """Which items of which benchmark are scored."""

    dataset: Dataset = "boolq"
    """The benchmark."""
    data: DataPath | None = None
    """Where its items are: ``tiny``, a ``.jsonl`` file, a folder with ``DATASET.jsonl``, or a hub name; null takes the
    benchmark's own hub name."""
    split: str = "validation"
    """The split of the benchmark that is scored."""
    limit: Annotated[int, Law(ge=1, off="null takes all items")] | None = None
    """How many items there are, from the first on; null takes all of them."""
    max_length: Annotated[int, Law(ge=2, off="null takes the model's positions")] | None = None
    """The most tokens that the model is shown; null takes as many as it has positions."""
    eval_batch_size: Count = 16
    """How many examples are scored at once; no score depends on it."""

    def __post_init__(self) -> None:
        check_numbers(self)

    def hub_data(self) -> tuple[str, ...]:
        """Return the benchmark's own data set on the hub, where no data is named."""
        return () if self.data is not None else (BENCHMARKS[self.dataset].hub[0],)


class ZeroShotTask:
    """``zero-shot``; see :class:`qalof.tasks.base.Task`.  An example is an item."""

    name = "zero-shot"
    head = HeadKind.CAUSAL_LM
    labels: int | None = None
    primary_metric = "acc"
    metrics: tuple[str, ...] = ("acc", "acc_norm")
    """The metrics that any benchmark may have, on the class; those of its own benchmark, on a task."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: ZeroShotSettings | None = None) -> None:
        self.tokenizer = tokenizer
        self.settings = settings or ZeroShotSettings()
        self.metrics = type(self).metrics if BENCHMARKS[self.settings.dataset].normalized else ("acc",)

    @cached_property
    def validation(self) -> list[Item]:
        """The items."""
        settings = self.settings
        return load_items(settings.dataset, settings.data, settings.split)[: settings.limit]

    def fingerprint(self) -> str:
        """Return a digest of the items, the tokenizer and the settings."""
        kept = {k: v for k, v in asdict(self.settings).items() if k not in ("data", "eval_batch_size")}
        return content_digest(self.name, [asdict(i) for i in self.validation], kept, tokenizer_digest(self.tokenizer))

    def train_features(self) -> Sequence[Feature]:
        """Raise an error, since this task has no training examples."""
        raise BadInputError(
            f"task {self.name} is for evaluation only: {self.settings.dataset} trains nothing; train on "
            "language-modeling and set `task` in `qalof evaluate`"
        )

    def train_counts(self) -> dict[str, int]:
        """Return nothing, since nothing is trained."""
        return {}

    def collate(self, features: Sequence[Feature]) -> Batch:
        """Raise the error of :meth:`train_features`, since nothing is trained."""
        return dict(self.train_features()[0])

    def units(self, feature: Feature) -> float:
        """Return 1: an item has one label row."""
        return 1.0

    def model_inputs(self, batch: Batch) -> Batch:
        """Return ids and mask."""
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def labeled(self, batch: Batch) -> None:
        """Return None: nothing is trained."""

    def label_rows(self, outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Raise the error of :meth:`train_features`, since nothing is trained."""
        self.train_features()
        return outputs.logits, batch["labels"]

    def _most_tokens(self, model: Any) -> int:
        if self.settings.max_length is not None:
            return self.settings.max_length
        return most_tokens(model)

    @torch.no_grad()
    def evaluate(
        self, model: Any, *, limit: int | None = None, skip: int = 0, progress: Progress | None = None
    ) -> Evaluation:
        """Return ``acc``, and ``acc_norm`` where the benchmark reports it, in percent."""
        items = chosen(self.validation, limit, skip)
        pairs = [encode_pair(self.tokenizer, *choice) for item in items for choice in item.choices]
        settings, pad, most = self.settings, int(self.tokenizer.pad_token_id or 0), self._most_tokens(model)
        legal = [0 < len(pair.continuation) <= most for pair in pairs]
        fitting = [pair for pair, fits in zip(pairs, legal, strict=True) if fits]
        scored, cut = score_pairs(model, fitting, most, settings.eval_batch_size, pad, progress)
        hits: dict[str, list[float]] = {name: [] for name in self.metrics}
        sums, fits = iter(score.log_likelihood for score in scored), iter(legal)
        too_long = 0
        for item in items:
            # an item with a choice that does not fit into the model counts as answered wrongly
            chances = [next(sums) if next(fits) else math.nan for _ in item.choices]
            too_long += any(map(math.isnan, chances))
            likelihoods = np.array(chances)
            for name, values in hits.items():
                found = likelihoods / np.array(item.lengths) if name == "acc_norm" else likelihoods
                right = not np.isnan(found).any() and int(found.argmax()) == item.gold
                values.append(100.0 * float(right))
        metrics = {name: float(np.mean(values)) for name, values in hits.items()}
        return Evaluation(metrics, len(items), hits, {"truncated": cut, "choice_too_long": too_long})
