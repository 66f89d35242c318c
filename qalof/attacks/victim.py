"""The classifier under attack, as an attack sees it: it maps texts to logits, with a gradient to its embeddings.

A victim never pads: token rows are grouped by length, and soft inputs (``inputs_embeds``) are batches of one text,
because GPT-2's classifier cannot see padding in embeddings and simply reads the last position.  Its parameters
take no gradient while it is attacked, which spares the backward pass all weight gradients; the gradient
still flows to the inputs, straight through the quantizers.

An attacker who knows that the precision is drawn attacks the mean over draws: a victim with :class:`Precisions` reads
every text several times, at the precisions that they name, and gives the logarithm of the mean probabilities (or of
the shares of votes) where another gives logits.  Each of these readings is a query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import one_hot
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.model.layers.switchable_embedding import SwitchableEmbedding
from qalof.model.positions import check_length
from qalof.model.pretrained import HeadKind
from qalof.tasks.classification import class_logits

BATCH = 64
_LEAST_SHARE = 1e-12


def transformers_model(model: Any) -> Any:
    """Return the transformers model inside a switchable one, or a plain one as it is."""
    return model if hasattr(model, "get_input_embeddings") else model.model


def embedding_matrix(model: Any) -> torch.Tensor:
    """Return the input embeddings, (vocabulary, features), without a gradient."""
    table = transformers_model(model).get_input_embeddings()
    weight: torch.Tensor = table.looked_up() if isinstance(table, SwitchableEmbedding) else table.weight
    return weight.detach()


@contextmanager
def frozen(*models: nn.Module) -> Iterator[None]:
    """Let no parameter take a gradient and disable dropout; both are restored afterwards."""
    trained = [p for model in models for p in model.parameters() if p.requires_grad]
    training = [model for model in models if model.training]
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it warns that padding goes unseen in embeddings; there is none
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        for model in training:
            model.eval()
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for parameter in trained:
            parameter.requires_grad_(True)
        for model in training:
            model.train()


class Precisions(Protocol):
    """The precisions over which an adaptive attacker takes the mean (:mod:`qalof.attacks.robustness.adaptive`)."""

    @property
    def name(self) -> str:
        """What stands in the place of a bitmap in the record."""
        ...

    @property
    def passes(self) -> int:
        """How many readings one text takes, each of which is a query."""
        ...

    @property
    def votes(self) -> bool:
        """Whether the attacker sees labels alone, and counts them, instead of probabilities."""
        ...

    def at(self, example: int, step: int) -> Sequence[tuple[Bitmap, float]]:
        """Return the bitmaps of one step of the attack on an example, with weights that sum to 1."""
        ...


Reader = Callable[[list[list[int]], Bitmap | None], torch.Tensor]
"""What gives logits (rows, classes) of token id rows at a bitmap, None for the model's own, in place of the victim."""


class Victim:
    """A classifier with its tokenizer.

    Args:
        model: a :class:`~qalof.model.switchable.SwitchableModel` with a classifier head.
        tokenizer: its tokenizer.
        max_length: longest text in tokens.
        precisions: what an attacker who knows the defense averages over; None reads at the model's bitmap.

    Raises:
        BadInputError: ``max_length`` is beyond the model's positions.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, precisions: Precisions | None = None
    ) -> None:
        if max_length < 1:
            raise BadInputError(f"max_length must be at least 1: got {max_length}")
        check_length(model, max_length, "max_length")
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.precisions = precisions
        self.reader: Reader | None = None
        self._example, self._step = 0, 0

    @property
    def bitmap(self) -> str:
        """The bitmap that it runs at, as printed, or the name of the precisions that are averaged over."""
        return str(self.model.bitmap) if self.precisions is None else self.precisions.name

    @property
    def queries_per_text(self) -> int:
        """How often a text is read to give one answer."""
        return 1 if self.precisions is None else self.precisions.passes

    def begin(self, example: int) -> None:
        """Begin an attack on an example: draws of precisions depend on it and on the steps since then alone."""
        self._example, self._step = example, 0

    def readings(self) -> Iterator[float]:
        """Set the model to each precision of the next step in turn, and yield its weight; 1 for a fixed bitmap.

        The model returns to its bitmap when the iterator is used up.
        """
        if self.precisions is None:
            yield 1.0
            return
        with self.model.at():
            for bitmap, weight in self._step_on():
                self.model.set_bitmap(bitmap, quiet=True)
                yield weight

    def _step_on(self) -> Sequence[tuple[Bitmap, float]]:
        assert self.precisions is not None
        self._step += 1
        return self.precisions.at(self._example, self._step - 1)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return token ids, cut to ``max_length``; a text without tokens becomes a single eos, which can be
        classified.
        """
        rows = self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        return [row[: self.max_length] or [int(self.tokenizer.eos_token_id)] for row in rows]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, byte for byte, without any change of spaces."""
        text = self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    @torch.no_grad()
    def logits(self, texts: Sequence[str]) -> torch.Tensor:
        """Return logits (len(texts), classes) on the CPU; equal texts are classified once.

        With precisions these are the logarithms, in fp64, of the mean probabilities or of the shares of votes.
        """
        distinct = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        rows = self.encode(list(distinct))
        read = self._read(rows)
        logits = read[0][1] if self.precisions is None else self._mean(read)
        return logits[[distinct[text] for text in texts]]

    def _read(self, rows: list[list[int]]) -> list[tuple[float, torch.Tensor]]:
        if self.reader is None:
            return [(weight, class_logits(self.model, rows, BATCH)) for weight in self.readings()]
        # whoever reads for several attacks sets the bitmap as well
        drawn: Sequence[tuple[Bitmap | None, float]] = [(None, 1.0)] if self.precisions is None else self._step_on()
        return [(weight, self.reader(rows, bitmap)) for bitmap, weight in drawn]

    def _mean(self, read: Sequence[tuple[float, torch.Tensor]]) -> torch.Tensor:
        total = torch.zeros_like(read[0][1], dtype=torch.float64)
        for weight, logits in read:
            votes = self.precisions is not None and self.precisions.votes
            shares = one_hot(logits.argmax(-1), logits.shape[-1]) if votes else logits.double().softmax(-1)
            total += weight * shares
        return total.clamp_min(_LEAST_SHARE).log()

    def predict(self, texts: Sequence[str]) -> list[int]:
        """Return the predicted labels."""
        predicted: list[int] = self.logits(texts).argmax(-1).tolist()
        return predicted


def classifier(
    model: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, precisions: Precisions | None = None
) -> Victim:
    """Return a victim that gives labels.

    Raises:
        BadInputError: The model has another head, or ``max_length`` exceeds its positions.
    """
    if model.base.head is not HeadKind.CLASSIFIER:
        raise BadInputError(f"this attack needs a classifier's checkpoint: got a {model.base.head} head")
    return Victim(model, tokenizer, max_length, precisions)


def margins(logits: torch.Tensor, label: int) -> torch.Tensor:
    """Return how far the label leads: h_y - max over k != y of h_k. (B, classes) -> (B,)."""
    others = logits.clone()
    others[:, label] = -torch.inf
    return logits[:, label] - others.amax(-1)
