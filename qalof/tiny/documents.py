"""Pretraining documents of the tiny model.

Every step draws three kinds from the training split:

* *context first*: `Context: {c}`, then `Question: {q}` / `Answer: {a}` for several of its facts. Every answer is a
retrieval that next-token prediction rewards, so one document gives many lessons where a span loss gives one. *
*question first*: `{q}` newline `{c}`, then `Answer: {a}`. Here the context is read in the light of the question,
  which is what a span head on a causal model needs; the answer's token span is recorded for the auxiliary loss.
* *reviews*, most with a verbalized label, so the model is a fair language model of that text as well.

A batch is padded on the right with the end token; `labels` are -100 there. No attention mask is needed: under a causal
mask no token attends to later ones.
"""

import random
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from qalof.tiny.reviews import LABELS, make_reviews
from qalof.tiny.words import FIRST_NAMES, LAST_NAMES, PLACE_HEADS, PLACE_TAILS, RELATIONS
from qalof.tiny.world import Fact, Passage, World

IGNORE = -100


class Batch(NamedTuple):
    """ids, labels: (B, T); answers: (B, T) true where the label is a token of an answer.

    spans: (B, 2) first and last token of the answer; context: (B, T) true on the tokens at which a span may start or
    end; both only of question-first documents. The rest are lists of marked tokens, one per row: notes (N, 5) row,
    position, first name, last name, relation: what a fact's value, or a question, is about; mentions (M, 3) row,
    position, 1 where an entity's name is the one asked for, otherwise 0; matches (K, 4) row, position, then the same
    for the entity and the relation of a value.
    """

    ids: Tensor
    labels: Tensor
    answers: Tensor
    notes: Tensor
    spans: Tensor
    context: Tensor
    mentions: Tensor
    matches: Tensor


class Piece(NamedTuple):
    """One document as text with character ranges: of answers, of notes, and, question first, of all the rest."""

    text: str
    answers: list[tuple[int, int]]
    notes: list[tuple[int, int, Fact]]
    context: tuple[int, int] | None = None
    span: tuple[int, int] | None = None
    asked: Fact | None = None


class DocumentMaker:
    """Draw batches of documents; the same seed and the same calls give the same batches."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int, exclude_reviews: Collection[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.rng = random.Random(seed)
        self.world = World("train", self.rng)
        self.exclude_reviews = exclude_reviews
        names = (*FIRST_NAMES, *LAST_NAMES, *PLACE_HEADS, *PLACE_TAILS)
        self.word_ids = {word: tokenizer(f" {word}")["input_ids"][0] for word in names}

    def context_first(self, count: int, facts: int, subjects: int, questions: int) -> Batch:
        """Return `count` contexts of `facts` facts, each followed by `questions` questions; some occur twice."""
        return self._batch([self._context_first(facts, subjects, questions) for _ in range(count)])

    def question_first(self, count: int, facts: int, subjects: int) -> Batch:
        """Return `count` documents of one question, its context and the answer, with the answer's span."""
        return self._batch([self._question_first(facts, subjects) for _ in range(count)])

    def reviews(self, count: int) -> Batch:
        """Return `count` reviews, three in four followed by their label."""
        pieces = []
        for review in make_reviews(self.rng, count, self.exclude_reviews):
            if self.rng.random() < 0.75:
                head = f"{review.text}\nSentiment:"
                text = f"{head} {LABELS[review.label]}"
                pieces.append(Piece(text, [(len(head), len(text))], []))
            else:
                pieces.append(Piece(review.text, [], []))
        return self._batch(pieces)

    def _context_first(self, facts: int, subjects: int, questions: int) -> Piece:
        passage = self.world.passage(facts, subjects)
        text = "Context: "
        notes = _value_notes(passage, len(text))
        text += passage.context
        ranges: list[tuple[int, int]] = []
        for question in self.rng.choices(passage.questions, k=questions):
            text += f"\nQuestion: {question.text}\nAnswer:"
            notes.append((len(text) - 1, len(text), question.fact))
            ranges.append((len(text), len(text) + 1 + len(question.answer)))
            text += f" {question.answer}"
        return Piece(text, ranges, notes)

    def _question_first(self, facts: int, subjects: int) -> Piece:
        passage = self.world.passage(facts, subjects)
        question = self.rng.choice(passage.questions)
        head = f"{question.text}\n"
        start = len(head) + question.start
        body = f"{head}{passage.context}\nAnswer:"
        text = f"{body} {question.answer}"
        notes = [(len(head) - 1, len(head), question.fact), *_value_notes(passage, len(head))]
        context = (len(head), len(head) + len(passage.context))
        span = (start, start + len(question.answer))
        return Piece(text, [(len(body), len(text))], notes, context, span, question.fact)

    def _batch(self, pieces: list[Piece]) -> Batch:
        encoded = self.tokenizer([piece.text for piece in pieces], return_offsets_mapping=True)
        end = self.tokenizer.eos_token_id
        rows = [[*ids, end] for ids in encoded["input_ids"]]
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), end)
        labels = torch.full((len(rows), width), IGNORE)
        answers = torch.zeros(len(rows), width, dtype=torch.bool)
        context = torch.zeros(len(rows), width, dtype=torch.bool)
        marks = _Marks([], [], [], [])
        for index, (row, piece, offsets) in enumerate(zip(rows, pieces, encoded["offset_mapping"], strict=True)):
            ids[index, : len(row)] = torch.tensor(row)
            labels[index, : len(row)] = ids[index, : len(row)]
            for low, high in piece.answers:
                first, last = _tokens(offsets, low, high)
                answers[index, first : last + 2] = True  # the token after the answer says that it has ended
            if piece.context:
                first, last = _tokens(offsets, *piece.context)
                context[index, first : last + 1] = True
            self._mark(marks, index, piece, offsets)
        if marks.spans:
            labels = labels.masked_fill(~answers, IGNORE)
        tensors = [
            torch.tensor(rows_, dtype=torch.long).reshape(-1, width_)
            for rows_, width_ in zip(marks, (5, 2, 3, 4), strict=True)
        ]
        notes, spans, mentions, matches = tensors
        return Batch(ids, labels, answers, notes, spans, context, mentions, matches)

    def _mark(self, marks: "_Marks", index: int, piece: Piece, offsets: list[tuple[int, int]]) -> None:
        """Add the marked tokens of one document."""
        for low, high, fact in piece.notes:
            head, tail = (self.word_ids[word] for word in fact.entity.split())
            for position in set(_tokens(offsets, low, high)):
                marks.notes.append((index, position, head, tail, RELATIONS.index(fact.relation)))
                if piece.asked:
                    same = fact.entity == piece.asked.entity, fact.relation == piece.asked.relation
                    marks.matches.append((index, position, int(same[0]), int(same[1])))
        if piece.asked and piece.span and piece.context:
            marks.spans.append(_tokens(offsets, *piece.span))
            for entity in {fact.entity for _, _, fact in piece.notes}:
                start = piece.text.find(entity, piece.context[0])
                while start >= 0:
                    _, last = _tokens(offsets, start, start + len(entity))
                    marks.mentions.append((index, last, int(entity == piece.asked.entity)))
                    start = piece.text.find(entity, start + 1)


class _Marks(NamedTuple):
    notes: list[tuple[int, ...]]
    spans: list[tuple[int, ...]]
    mentions: list[tuple[int, ...]]
    matches: list[tuple[int, ...]]


def _value_notes(passage: Passage, offset: int) -> list[tuple[int, int, Fact]]:
    """Return the position of each fact's value in the text, whose context begins at character `offset`."""
    return [
        (offset + question.start, offset + question.start + len(question.answer), question.fact)
        for question in passage.questions
    ]


def _tokens(offsets: list[tuple[int, int]], low: int, high: int) -> tuple[int, int]:
    """Return the first and the last token that overlap the characters [low, high)."""
    touching = [index for index, (start, stop) in enumerate(offsets) if stop > low and start < high]
    return touching[0], touching[-1]
