"""Language modeling: next-token loss on plain text, and strided perplexity (docs/methods/tasks.md,
"language-modeling").

    perplexity = exp(sum NLL / sum tokens),   word perplexity = exp(sum NLL / words)

A window of ``max_length`` tokens moves by ``stride``; each token is scored once, in the first window that holds it,
with at least ``max_length - stride`` tokens, and at least one, before it, except at the beginning of the text. The
first token of all has nothing before it and is not scored, unless a bos precedes it. Means of windows are never
averaged, since windows have unequal counts.  Words are runs of characters between white space.

The batch size, the threads, the number of actors and the device (CPU or GPU) change only the order of sums. Two such
losses of one model agree to :data:`FLOAT64_TOLERANCE` in float64. In float32 they agree to :data:`FLOAT32_TOLERANCE`
where no activation and no cache is rounded, and otherwise to :data:`ROUNDED_TOLERANCE`, since a last bit may then move
a value by a whole level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from transformers import PreTrainedTokenizerBase

from qalof.batching import Progress
from qalof.digests import content_digest, tokenizer_digest
from qalof.errors import BadInputError
from qalof.evaluation.full_precision import FullPrecision
from qalof.evaluation.result import Evaluation, exp_nats, mean_per_token
from qalof.home import expanded
from qalof.hub import load_rows
from qalof.laws import Count, Law, check_numbers
from qalof.model.pretrained import HeadKind
from qalof.model.special_tokens import special_token
from qalof.paths import DataPath
from qalof.reading import exists, read_text
from qalof.tasks.base import Feature, chosen
from qalof.tasks.generated_data import find_generated, open_generated
from qalof.tasks.next_token import NextToken, Sums
from qalof.tasks.squad_data import load_squad

FLOAT64_TOLERANCE, FLOAT32_TOLERANCE, ROUNDED_TOLERANCE = 1e-9, 1e-5, 5e-3
"""These are relative differences of a mean loss over some hundred tokens; they shrink with more tokens."""


@dataclass(frozen=True)
class LanguageModelingSettings:
    """The text of language modeling, and how it is cut into windows."""

    data: DataPath = "tiny"
    """The text: ``tiny``, a text file, a folder with ``SPLIT.txt`` or ``SPLIT/*.txt``, a folder of texts that ``qalof
    generate-data`` wrote, or a hub name with ``subset``."""
    subset: str | None = None
    """The subset of a data set of the hub, such as ``wikitext-2-raw-v1``; null where it has none."""
    validation_data: DataPath | None = None
    """The text to score on in place of ``data``, of the same forms; null scores on ``data``, which must not be
    generated then."""
    train_split: str = "train"
    """The split to train on, such as ``train``, or ``train[:1000]`` for its first 1,000 examples."""
    validation_split: str = "validation"
    """The split to score on, such as ``validation``, or ``validation[:500]`` for its first 500 examples."""
    max_length: Annotated[int, Law(ge=2)] = 1024
    """The tokens of a scored window, and of a training block; blocks do not overlap."""
    stride: Count = 512
    """How many tokens a scored window moves on; each token is scored once, by the first window that holds it."""
    prepend_bos: bool = False
    """Whether a bos token is put first, which lets the first token of the text be scored too."""
    eval_batch_size: Count = 8
    """How many examples are scored at once; no score depends on it."""

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.stride > self.max_length:
            raise BadInputError(f"stride must be 1 to max_length {self.max_length}: got {self.stride}")


class LanguageModelingTask(NextToken):
    """``language-modeling``; see :class:`qalof.tasks.base.Task`.  An example is a window."""

    name = "language-modeling"
    head = HeadKind.CAUSAL_LM
    labels: int | None = None
    primary_metric = "loss"
    metrics = ("loss", "perplexity", "word_perplexity", "accuracy", "kl")

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: LanguageModelingSettings | None = None) -> None:
        self.tokenizer = tokenizer
        self.settings = settings or LanguageModelingSettings()

    @cached_property
    def validation(self) -> str:
        """The validation text."""
        settings = self.settings
        return load_text(settings.validation_data or settings.data, settings.validation_split, settings.subset)

    def fingerprint(self) -> str:
        """Return a digest of the validation text, the tokenizer and the settings."""
        unheard = ("data", "validation_data", "subset", "eval_batch_size")
        kept = {k: v for k, v in asdict(self.settings).items() if k not in unheard}
        return content_digest(self.name, self.validation, kept, tokenizer_digest(self.tokenizer))

    def train_features(self) -> Sequence[Feature]:
        """Return blocks of max_length tokens; a shorter rest is left out unless there is nothing more."""
        ids, length = self._train_ids, self.settings.max_length
        blocks = [ids[at : at + length] for at in range(0, len(ids) - length + 1, length)] or [ids]
        return [{"input_ids": block, "first": 1} for block in blocks]

    def train_counts(self) -> dict[str, int]:
        """Return ``rest_tokens``, the number of tokens after the last whole block, which are left out."""
        length = self.settings.max_length
        tokens = len(self._train_ids)
        return {"rest_tokens": tokens % length if tokens > length else 0}

    @cached_property
    def _train_ids(self) -> list[int]:
        settings = self.settings
        if (folder := find_generated(settings.data)) is None:
            return self._ids(load_text(settings.data, settings.train_split, settings.subset))
        return self._checked(open_generated(folder, "texts").token_ids(self.tokenizer))

    def windows(self) -> list[dict[str, Any]]:
        """Return windows over the validation text: input_ids, and ``first``, the index of the first scored token."""
        return self._windows

    @cached_property
    def _windows(self) -> list[dict[str, Any]]:
        ids, settings = self._ids(self.validation), self.settings
        # the first token of a window has nothing before it, so windows without overlap still share one token
        step = min(settings.stride, settings.max_length - 1)
        found, scored = [], 1
        for start in range(0, len(ids), step):
            window = ids[start : start + settings.max_length]
            if start + len(window) > scored:
                found.append({"input_ids": window, "first": scored - start})
                scored = start + len(window)
            if start + settings.max_length >= len(ids):
                break
        return found

    def first_label(self, feature: Feature) -> int:
        """Return the index of the first token that no earlier window has scored."""
        return int(feature["first"])

    @torch.no_grad()
    def evaluate(
        self,
        model: Any,
        *,
        limit: int | None = None,
        skip: int = 0,
        progress: Progress | None = None,
        full_precision: FullPrecision | None = None,
    ) -> Evaluation:
        """Return the loss in nats per token, and token and word perplexity, over all windows, or over
        ``limit`` of them after the first ``skip``.

        ``accuracy`` is the share of scored tokens that the model finds likeliest, in percent; ``kl``, where
        ``full_precision`` is given, the divergence from full precision in nats per scored token.
        """
        windows = chosen(self.windows(), limit, skip)
        sums: list[Sums] = []
        for at in range(0, len(windows), self.settings.eval_batch_size):
            sums += self.sums(model, windows[at : at + self.settings.eval_batch_size], full_precision)
            if progress:
                progress(len(sums), len(windows))
        tokens = [int(self.units(window)) for window in windows]
        loss, losses = mean_per_token([each.nats for each in sums], tokens)
        accuracy, accuracies = mean_per_token([100.0 * each.hits for each in sums], tokens)
        exponents = {"perplexity": 1.0, "word_perplexity": sum(tokens) / self._words(windows)}
        metrics = {"loss": loss, **{name: exp_nats(factor * loss) for name, factor in exponents.items()}}
        scores = {"loss": losses, "accuracy": accuracies}
        metrics["accuracy"] = accuracy
        if full_precision is not None:
            metrics["kl"], scores["kl"] = mean_per_token([each.kl for each in sums], tokens)
        weights = dict.fromkeys(scores, tokens)
        return Evaluation(metrics, len(windows), scores, weights=weights, exponents=exponents)

    def _words(self, windows: Sequence[Feature]) -> int:
        scored = [token for window in windows for token in window["input_ids"][window["first"] :]]
        return max(1, len(self.tokenizer.decode(scored).split()))

    def _ids(self, text: str) -> list[int]:
        return self._checked(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _checked(self, ids: list[int]) -> list[int]:
        if self.settings.prepend_bos:
            ids = [special_token(self.tokenizer, "bos", "prepend_bos", "set it to false"), *ids]
        if len(ids) < 2:
            raise BadInputError(f"language modeling needs at least two tokens of text: {self.settings.data} has less")
        return ids


def load_text(source: str, split: str, subset: str | None = None) -> str:
    """Return one text, in which documents are joined by an empty line.

    Args:
        source: ``tiny`` (the contexts of its questions); a file; a folder with ``SPLIT.txt`` or ``SPLIT/*.txt``;
            otherwise a hub name, whose rows have ``text``.
        split: such as ``train`` or ``validation``.
        subset: the subset of the hub's data set, such as ``wikitext-2-raw-v1``.

    Raises:
        BadInputError: The data does not exist, or is not UTF-8.
    """
    path = expanded(source)
    if find_generated(source) is not None:
        raise BadInputError(
            f"generated data is for training only: {source} was given for its {split} text; "
            "set validation_data to a text to score on"
        )
    if source == "tiny":
        return "\n\n".join(dict.fromkeys(example.context for example in load_squad("tiny", split)))
    if exists(path):
        return "\n\n".join(read_text(file, "data file") for file in _files(path, split))
    if source.startswith((".", "/", "~")) or source.endswith(".txt"):
        raise BadInputError(f"data file {source} does not exist")
    return "\n\n".join(str(row["text"]) for row in load_rows(source, split, subset))


def _files(path: Path, split: str) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / f"{split}.txt").is_file():
        return [path / f"{split}.txt"]
    if files := sorted((path / split).glob("*.txt")):
        return files
    raise BadInputError(f"data folder {path} must hold {split}.txt or {split}/*.txt")
