"""Extractive question answering with a span head, the set-up of S1 (docs/systems.md; docs/methods/tasks.md).

The input is ``question \\n context``: a causal model must have read the question before it reads the context.  Only the
context is cut, into windows that overlap by ``stride`` tokens.  A window without the answer teaches nothing in v1.1 and
is dropped from training. The rejected choice is to point at a CLS token: GPT-2 has none, and the usual fallback, the
first bos, is the first *pad* where pad = eos. The loss is the mean of the cross entropies of start and end.

A question that leaves its context no more room than the overlap has no windows at all: it is not trained on, its answer
is empty, and it is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from qalof.batching import Progress, attention_mask, by_length, pad_right
from qalof.digests import content_digest, tokenizer_digest
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.laws import Count, Natural, check_numbers
from qalof.model.pretrained import HeadKind
from qalof.paths import DataPath
from qalof.precision import at_least_float32
from qalof.tasks import squad_metrics
from qalof.tasks.base import Batch, Feature, TrainingData, chosen
from qalof.tasks.feature_cache import cached_features, column, map_cached
from qalof.tasks.squad_data import SquadExample, digest_and_reader, gold_counts, load_squad

FEATURES = 1
"""The version of the features: it is raised when equal texts become other features than before."""

NO_ANSWER = "empty"
"""The answer of an example without any legal span."""


@dataclass(frozen=True)
class SpanSettings:
    """The data of extractive question answering, and how contexts are cut into windows."""

    data: DataPath = "tiny"
    """The data: ``tiny``, a hub name, or a folder or file in the format of SQuAD v1.1."""
    train_split: str = "train"
    """The split to train on, such as ``train``, or ``train[:1000]`` for its first 1,000 examples."""
    validation_split: str = "validation"
    """The split to score on, such as ``validation``, or ``validation[:500]`` for its first 500 examples."""
    max_length: Count = 384
    """The most tokens of a window, which holds the question and a part of the context."""
    stride: Natural = 128
    """How many tokens two neighboring windows of a context share."""
    n_best: Count = 20
    """How many of the likeliest starts are paired with as many of the likeliest ends when an answer is chosen."""
    max_answer_length: Count = 30
    """The most tokens of an answer."""
    eval_batch_size: Count = 64
    """How many examples are scored at once; no score depends on it."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.stride >= self.max_length:
            raise BadInputError(f"stride must be below max_length {self.max_length}: got {self.stride}")


class SpanTask:
    """``squad-span``; see :class:`qalof.tasks.base.Task`."""

    name = "squad-span"
    head = HeadKind.SPAN
    labels: int | None = None
    primary_metric = "f1"
    metrics = ("exact_match", "f1")

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: SpanSettings | None = None) -> None:
        self.tokenizer = tokenizer
        self.settings = settings or SpanSettings()

    @cached_property
    def validation(self) -> list[SquadExample]:
        """The validation examples."""
        return load_squad(self.settings.data, self.settings.validation_split)

    def fingerprint(self) -> str:
        """Return a digest of the validation data, the tokenizer and the settings."""
        return content_digest(self.name, self._key(self.validation))

    def _key(self, examples: Sequence[SquadExample]) -> str:
        # sizes of batches and the names of files change no feature and no score
        settings = {k: v for k, v in asdict(self.settings).items() if k not in ("data", "eval_batch_size")}
        return content_digest([vars(e) for e in examples], settings, tokenizer_digest(self.tokenizer))

    def train_features(self) -> Sequence[Feature]:
        """Return the windows that hold the answer of their question: input_ids, start, end."""
        return self._training.features

    def train_counts(self) -> dict[str, int]:
        """Return the numbers of questions that were left out.

        ``no_answer_in_window`` counts all of them: no window holds their answer.  ``question_too_long`` counts those of
        them that leave their context no room.
        """
        return self._training.counts

    @cached_property
    def _training(self) -> TrainingData:
        settings = self.settings
        texts, read = digest_and_reader(settings.data, settings.train_split)
        parts = (self.name, FEATURES, texts, settings.max_length, settings.stride, tokenizer_digest(self.tokenizer))
        key = content_digest(*parts)
        return cached_features(key, lambda: self._made(read(), key))

    def _made(self, examples: Sequence[SquadExample], key: str) -> TrainingData:
        learnable = [example for example in examples if example.span is not None]
        rows = [
            {"id": e.id, "question": e.question, "context": e.context, "span": list(e.span or ())} for e in learnable
        ]
        features = map_cached(rows, self._encode_training, key)
        if not features:
            raise BadInputError(f"training needs at least one answer inside a window: {self.settings.data} has none")
        learned = set(column(features, "id"))
        left_out = [example.question for example in examples if example.id not in learned]
        too_long = len(left_out) - len(self._fitting(left_out))
        counts = {"no_answer_in_window": len(examples) - len(learned), "question_too_long": too_long}
        return TrainingData(features, counts)

    def _fitting(self, questions: Sequence[str]) -> list[int]:
        """Return the indices of the questions that leave room for more context than ``stride``, so windows can move
        on.
        """
        if not questions:
            return []
        tokenizer: Any = self.tokenizer
        encoded = tokenizer([f"{q}\n" for q in questions], add_special_tokens=False, verbose=False)["input_ids"]
        room = self.settings.max_length - tokenizer.num_special_tokens_to_add(pair=True) - self.settings.stride
        return [index for index, ids in enumerate(encoded) if len(ids) < room]

    def _encode_training(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        result: dict[str, list[Any]] = {"id": [], "input_ids": [], "start": [], "end": []}
        for window in self._windows(rows["question"], rows["context"]):
            first, last = rows["span"][window.example]
            tokens = [i for i in window.context_tokens if window.offsets[i][1] > first and window.offsets[i][0] < last]
            # a byte-level token may begin with the space before the answer, so the comparison is <=
            if tokens and window.offsets[tokens[0]][0] <= first and window.offsets[tokens[-1]][1] >= last:
                result["id"].append(rows["id"][window.example])
                result["input_ids"].append(window.input_ids)
                result["start"].append(tokens[0])
                result["end"].append(tokens[-1])
        return result

    def _windows(self, questions: Sequence[str], contexts: Sequence[str]) -> list[_Window]:
        fitting = self._fitting(questions)
        if not fitting:
            return []
        encoded = self.tokenizer(
            [f"{questions[index]}\n" for index in fitting],
            [contexts[index] for index in fitting],
            truncation="only_second",
            max_length=self.settings.max_length,
            stride=self.settings.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        windows = []
        for i, example in enumerate(encoded["overflow_to_sample_mapping"]):
            context_tokens = [t for t, part in enumerate(encoded.sequence_ids(i)) if part == 1]
            windows.append(
                _Window(fitting[example], encoded["input_ids"][i], encoded["offset_mapping"][i], context_tokens)
            )
        return windows

    def answer_windows(self, example: SquadExample) -> list[Feature]:
        """Return the windows that hold the first answer of an example: input_ids, start, end."""
        if example.span is None:
            return []
        row = {"id": 0, "question": example.question, "context": example.context, "span": list(example.span)}
        found = self._encode_training({name: [value] for name, value in row.items()})
        return [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]

    def units(self, feature: Feature) -> float:
        """Return 2: a window has two label rows, its start and its end."""
        return 2.0

    def collate(self, features: Sequence[Feature]) -> Batch:
        """Return input_ids and attention_mask (B, T), and start and end (B,)."""
        ids = [feature["input_ids"] for feature in features]
        return {
            "input_ids": pad_right(ids, int(self.tokenizer.pad_token_id or 0)),
            "attention_mask": attention_mask(ids),
            "start": torch.tensor([feature["start"] for feature in features]),
            "end": torch.tensor([feature["end"] for feature in features]),
        }

    def model_inputs(self, batch: Batch) -> Batch:
        """Return ids and mask."""
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def labeled(self, batch: Batch) -> None:
        """Return None: a label is a place in a text."""

    def label_rows(self, outputs: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (2 B, T), start rows before end rows, with padding masked, and labels (2 B,)."""
        logits = at_least_float32(torch.cat([outputs.start_logits, outputs.end_logits]))
        padding = torch.cat([batch["attention_mask"]] * 2) == 0
        labels = torch.cat([batch["start"], batch["end"]])
        return logits.masked_fill(padding, torch.finfo(logits.dtype).min), labels

    @torch.no_grad()
    def evaluate(
        self, model: Any, *, limit: int | None = None, skip: int = 0, progress: Progress | None = None
    ) -> Evaluation:
        """Return exact match and F1 in percent, from the best span over the windows of an example."""
        examples = chosen(self.validation, limit, skip)
        windows = self._validation_windows[self._windows_of_first(skip) : self._windows_of_first(skip + len(examples))]
        texts = self._answered(model, windows, [example.context for example in examples], skip, progress)
        return self._score(examples, texts, len(examples) - len({window.example for window in windows}))

    @torch.no_grad()
    def answers(self, model: Any, questions: Sequence[str], contexts: Sequence[str]) -> list[str]:
        """Return the answer of ``model`` to each question, as :meth:`evaluate` finds it."""
        return self._answered(model, self._windows(questions, contexts), contexts)

    def _answered(
        self, model: Any, windows: Sequence[_Window], contexts: Sequence[str], skip: int = 0,
        progress: Progress | None = None,
    ) -> list[str]:  # fmt: skip
        """Return the best span over the windows of each context, whose example is ``skip`` plus its index."""
        with_windows = {window.example - skip for window in windows}
        best = [(-np.inf, NO_ANSWER if index in with_windows else "") for index in range(len(contexts))]
        device = model.device
        done = 0
        for batch in by_length([len(w.input_ids) for w in windows], self.settings.eval_batch_size):
            ids = [windows[i].input_ids for i in batch]
            inputs = {
                "input_ids": pad_right(ids, int(self.tokenizer.pad_token_id or 0)),
                "attention_mask": attention_mask(ids),
            }
            outputs = model(**{name: tensor.to(device) for name, tensor in inputs.items()})
            both = (outputs.start_logits, outputs.end_logits)
            starts, ends = (at_least_float32(logits).cpu().numpy() for logits in both)
            for row, i in enumerate(batch):
                index = windows[i].example - skip
                found = self._decode(windows[i], starts[row], ends[row], contexts[index])
                best[index] = max(best[index], found, key=lambda scored: scored[0])
            done += len(batch)
            if progress:
                progress(done, len(windows))
        return [text for _, text in best]

    @cached_property
    def _validation_windows(self) -> list[_Window]:
        return self._windows([e.question for e in self.validation], [e.context for e in self.validation])

    def _windows_of_first(self, examples: int) -> int:
        return sum(window.example < examples for window in self._validation_windows)

    def _decode(self, window: _Window, start: np.ndarray, end: np.ndarray, context: str) -> tuple[float, str]:
        tokens = np.asarray(window.context_tokens)
        if not len(tokens):
            return -np.inf, NO_ANSWER
        starts = tokens[np.argsort(-start[tokens], kind="stable")[: self.settings.n_best]]
        ends = tokens[np.argsort(-end[tokens], kind="stable")[: self.settings.n_best]]
        length = ends[None, :] - starts[:, None] + 1
        legal = (length >= 1) & (length <= self.settings.max_answer_length)
        if not legal.any():
            return -np.inf, NO_ANSWER
        scores = np.where(legal, start[starts][:, None] + end[ends][None, :], -np.inf)
        row, column = np.unravel_index(int(scores.argmax()), scores.shape)
        text = context[window.offsets[starts[row]][0] : window.offsets[ends[column]][1]]
        return float(scores[row, column]), text.strip()

    def _score(self, examples: Sequence[SquadExample], answers: Sequence[str], too_long: int = 0) -> Evaluation:
        pairs = list(zip(answers, examples, strict=True))
        matches = [100 * squad_metrics.exact_match(answer, example.texts) for answer, example in pairs]
        overlaps = [100 * squad_metrics.f1(answer, example.texts) for answer, example in pairs]
        metrics = {"exact_match": float(np.mean(matches)), "f1": float(np.mean(overlaps))}
        counts = {**gold_counts(examples), "question_too_long": too_long}
        return Evaluation(metrics, len(examples), {"exact_match": matches, "f1": overlaps}, counts)


@dataclass(frozen=True)
class _Window:
    """A stretch of ``question \\n context``: offsets are (start, end) characters, in the context for its tokens."""

    example: int
    input_ids: list[int]
    offsets: list[tuple[int, int]]
    context_tokens: list[int]
