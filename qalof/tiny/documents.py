"""Pretraining documents: what the tiny model reads.

Three kinds, drawn afresh at every step from the training split:

* *context first*: `Context: {c}`, then `Question: {q}` / `Answer: {a}` for several of its facts. Every answer is a
  retrieval that next-token prediction rewards, so that one document gives many lessons where a span loss gives one.
* *question first*: `{q}` newline `{c}`, then `Answer: {a}`. Here the context is read in the light of the question,
  which is what a span head on a causal model needs; the answer's token span is recorded for the auxiliary loss.
* *reviews*, most with a verbalised label, so that the model is a fair language model of that text as well.

A batch is padded on the right with the end token; `labels` are -100 there. No attention mask is needed: under a
causal mask nothing looks at what comes later.
"""

import random
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from qalof.tiny.reviews import LABELS, make_reviews
from qalof.tiny.world import World

IGNORE = -100


class Batch(NamedTuple):
    """ids, labels: (B, T); answers: (B, T) true where the label is a token of an answer; spans: (B, 2) or None.

    `context` (B, T) is true on the tokens at which a span may start or end, None where there are no spans.
    """

    ids: Tensor
    labels: Tensor
    answers: Tensor
    spans: Tensor | None = None
    context: Tensor | None = None


class Piece(NamedTuple):
    """One document as text, with character ranges of its answers and, question first, of its context and span."""

    text: str
    answers: list[tuple[int, int]]
    context: tuple[int, int] | None = None
    span: tuple[int, int] | None = None


class DocumentMaker:
    """Draws batches of documents; the same seed and the same calls give the same batches."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int, exclude_reviews: Collection[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.rng = random.Random(seed)
        self.world = World("train", self.rng)
        self.exclude_reviews = exclude_reviews

    def context_first(self, count: int, facts: int, subjects: int, questions: int) -> Batch:
        """`count` contexts of `facts` facts, each followed by up to `questions` questions in random order."""
        return self._batch([self._context_first(facts, subjects, questions) for _ in range(count)])

    def question_first(self, count: int, facts: int, subjects: int) -> Batch:
        """`count` documents of one question, its context and the answer, with the answer's span."""
        return self._batch([self._question_first(facts, subjects) for _ in range(count)])

    def reviews(self, count: int) -> Batch:
        """`count` reviews, three in four followed by their label."""
        pieces = []
        for review in make_reviews(self.rng, count, self.exclude_reviews):
            if self.rng.random() < 0.75:
                head = f"{review.text}\nSentiment:"
                text = f"{head} {LABELS[review.label]}"
                pieces.append(Piece(text, [(len(head), len(text))]))
            else:
                pieces.append(Piece(review.text, []))
        return self._batch(pieces)

    def _context_first(self, facts: int, subjects: int, questions: int) -> Piece:
        passage = self.world.passage(facts, subjects)
        text = f"Context: {passage.context}"
        ranges: list[tuple[int, int]] = []
        for question in self.rng.sample(passage.questions, min(questions, facts)):
            text += f"\nQuestion: {question.text}\nAnswer:"
            ranges.append((len(text), len(text) + 1 + len(question.answer)))
            text += f" {question.answer}"
        return Piece(text, ranges)

    def _question_first(self, facts: int, subjects: int) -> Piece:
        passage = self.world.passage(facts, subjects)
        question = self.rng.choice(passage.questions)
        head = f"{question.text}\n"
        start = len(head) + question.start
        body = f"{head}{passage.context}\nAnswer:"
        text = f"{body} {question.answer}"
        context = (len(head), len(head) + len(passage.context))
        return Piece(text, [(len(body), len(text))], context, (start, start + len(question.answer)))

    def _batch(self, pieces: list[Piece]) -> Batch:
        encoded = self.tokenizer([piece.text for piece in pieces], return_offsets_mapping=True)
        end = self.tokenizer.eos_token_id
        rows = [[*ids, end] for ids in encoded["input_ids"]]
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), end)
        labels = torch.full((len(rows), width), IGNORE)
        answers = torch.zeros(len(rows), width, dtype=torch.bool)
        context = torch.zeros(len(rows), width, dtype=torch.bool)
        spans = torch.zeros(len(rows), 2, dtype=torch.long)
        for index, (row, piece, offsets) in enumerate(zip(rows, pieces, encoded["offset_mapping"], strict=True)):
            ids[index, : len(row)] = torch.tensor(row)
            labels[index, : len(row)] = ids[index, : len(row)]
            for low, high in piece.answers:
                first, last = _tokens(offsets, low, high)
                answers[index, first : last + 2] = True  # the token after the answer says that it has ended
            if piece.context and piece.span:
                first, last = _tokens(offsets, *piece.context)
                context[index, first : last + 1] = True
                spans[index] = torch.tensor(_tokens(offsets, *piece.span))
        if pieces[0].span is None:
            return Batch(ids, labels, answers)
        return Batch(ids, labels.masked_fill(~answers, IGNORE), answers, spans, context)


def _tokens(offsets: list[tuple[int, int]], low: int, high: int) -> tuple[int, int]:
    """The first and last token that touch the characters [low, high)."""
    touching = [index for index, (start, stop) in enumerate(offsets) if stop > low and start < high]
    return touching[0], touching[-1]
