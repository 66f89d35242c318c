"""The common part of attacks that swap words: ranking, greedy search and settings (docs/methods/attacks.md).

1. Every word but stop words is hidden in turn, and words are ranked by how much worse the victim does without each of
them. 2. In that order, a word's candidates are put in its place.  Those that keep the text similar enough are shown to
the
   victim.  If any breaks it, the one most similar to the text is taken and the attack ends. Otherwise the one with the
   largest score stays, if that is more than before.

A method says how a word is hidden, what its candidates are, and what similar enough means.  Choices that hold for both:

- The official codes compare a swap's score with the *original* text's, so a later swap may undo an earlier one; here
  it is compared with the current text's, as in the papers.
- They ask the victim about candidates that the filters then drop; here the filters come first, and no query is wasted.
- BERT-Attack's code takes the first candidate that breaks the victim, in its language model's order.

``queries`` counts the texts that the victim reads: the original once, then every text with a hidden or swapped word,
equal ones asked about together once.  An attacker who takes the mean over k precisions pays k queries for each.  What a
record holds besides (``measures``) is read afterwards and is no query of the attack.  Nothing is drawn but precisions.
An attack whose budget of queries (``most_queries``) is spent ends as one that found nothing further.  A text where
nothing helps is a failed attack on the text as it was.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from qalof.attacks.continuation_goal import DEFAULT_RISE
from qalof.attacks.examples import text_misfit, texts_or_paragraphs
from qalof.attacks.goal import Goal, GoalFunctionResult, VictimGoal
from qalof.attacks.goals import label_or_continuation
from qalof.attacks.result import AttackExample, AttackResult, AttackStatus
from qalof.attacks.substitutes.sentence_encoder import STATES, check_encoder
from qalof.attacks.substitutes.similarity import Ask, SharedSimilarity, Similarity
from qalof.attacks.substitutes.stop_words import is_stop_word
from qalof.attacks.substitutes.synonyms import Thesaurus, read_thesaurus
from qalof.attacks.victim import Precisions
from qalof.attacks.words import Words
from qalof.laws import Count, Law, Positive, Weight, check_numbers
from qalof.paths import InputPath, PathField
from qalof.tasks.base import Task


@dataclass(frozen=True)
class WordAttackSettings:
    """The settings that TextFooler and BERT-Attack share."""

    uses_lm: ClassVar[bool] = True
    """Whether the attack needs a language model."""
    _task: ClassVar[Any] = None

    encoder: Annotated[str, PathField(words=(STATES,), hub=True)] = STATES
    """What judges the similarity of texts: ``states`` (mean hidden states of the language model), or the folder of a
    sentence encoder, such as ``cache:all-MiniLM-L6-v2``."""
    antonyms: InputPath | None = None
    """A file of words that are never swapped for each other; null forbids no swap."""
    layer: Annotated[int, Law(ge=0, off="null is the middle layer")] | None = None
    """The hidden states that similarity compares: those after this layer; null takes the middle one."""
    idf: tuple[Weight, ...] | None = field(default=None, repr=False)
    """The weight of each token id in the similarity; null weighs all alike."""
    rise: Positive = DEFAULT_RISE
    """The relative rise of the NLL that counts as success against a language model."""
    max_length: Count = 128
    """The most tokens of a text; a longer text keeps its beginning."""
    most_queries: Annotated[int, Law(ge=1, off="null sets no bound")] | None = None
    """The most queries of an attack on one text, the reading of the text itself among them; null sets no bound."""

    def __post_init__(self) -> None:
        check_numbers(self)

    def examples(self, task: Task) -> list[AttackExample]:
        """Return a classifier's texts, a language model's paragraphs, or the contexts of questions; word lists are read
        too, as a check.
        """
        for path in self.lists():
            read_thesaurus(path)
        if self.encoder != STATES:
            check_encoder(self.encoder)
        return texts_or_paragraphs(task)

    def misfit(self, example: AttackExample, model: Any, tokenizer: Any) -> str | None:
        """Say why a text cannot be attacked: it has no words, or a label that the classifier does not have."""
        return text_misfit(example, model)

    def most_read(self, texts: int) -> int:
        """Return how many of at most ``texts`` queries the budget allows."""
        return texts if self.most_queries is None else min(texts, self.most_queries)

    def lists(self) -> list[str]:
        """Return the user's word lists."""
        return [] if self.antonyms is None else [self.antonyms]

    def judge(self, model: Any, tokenizer: Any) -> Goal:
        """Return the judge of whether the label changed, or untouched words became less likely."""
        return self.goal(model, tokenizer, None)

    def goal(self, model: Any, tokenizer: Any, precisions: Precisions | None) -> Goal:
        """Return what the search is to reach, at the model's bitmap or in the mean over ``precisions``."""
        return label_or_continuation(model, tokenizer, self.max_length, self.rise, precisions, self._task)

    def of_task(self, task: Task) -> Self:
        """Return the same settings for victims of ``task``, which says how a question is answered."""
        other = copy(self)
        object.__setattr__(other, "_task", task)
        return other


class Swap(NamedTuple):
    """A text with one more word swapped, and how similar it is."""

    words: Words
    similarity: float


class WordAttack(ABC):
    """An :class:`~qalof.attacks.attack.Attack`; see the module's docstring.

    Args:
        goal: how the victim is read.
        settings: of the method.
        substitutes: what stands in for what, for the record.
        seed: of the run, for the record alone: nothing is drawn.
    """

    name: str
    _similarity: Similarity

    def __init__(self, goal: Goal, settings: WordAttackSettings, substitutes: Mapping[str, str], seed: int = 0) -> None:
        self.goal, self.seed, self.substitutes = goal, seed, dict(substitutes)
        self._most_queries = settings.most_queries
        self._antonyms: Thesaurus = {} if settings.antonyms is None else read_thesaurus(settings.antonyms)

    @abstractmethod
    def hidden(self, words: Words, index: int) -> str:
        """Return the text with word ``index`` hidden."""

    @abstractmethod
    def candidates(self, original: Words, index: int) -> Sequence[str]:
        """Return words that may replace word ``index``, the best first."""

    @abstractmethod
    def similar(self, original: Words, current: Words, index: int, swapped: Sequence[Words]) -> list[Swap]:
        """Return those of ``swapped``, the current text with another word ``index``, that are similar enough."""

    def against(self, goal: Goal) -> Self:
        """Return the same attack with another goal; what it was built from, such as word vectors, is shared."""
        other = copy(self)
        other.goal = goal
        return other

    def apart(self) -> Self:
        """Return the same attack for a search beside this one, with a victim of its own to read with."""
        assert isinstance(self.goal, VictimGoal)
        return self.against(self.goal.apart())

    def share(self, ask: Ask) -> None:
        """Let similarity be asked for through ``ask``, which answers what several attacks ask at once."""
        self._similarity = SharedSimilarity(self._similarity, ask)

    def most_changes(self, words: int) -> int:
        """Return how many of a text's words may be swapped."""
        return words

    def run(self, example: AttackExample) -> AttackResult:
        """Attack one text at the victim's bitmap, or in the mean over its precisions."""
        self.goal.begin(example.id)
        original = self.goal.read(example.text)
        asked = _Asked(self.goal, original, example.label, self._most_queries)
        if self.goal.lost(original, example.label):
            return self._result(example, AttackStatus.SKIPPED, original, original, asked, [])
        words = Words.of(original)
        # an empty text is read as an end of text, which is no word to swap
        order = self.ranked(words, asked) if example.text else []
        found, losses, succeeded = self._search(words, order, asked)
        status = AttackStatus.SUCCESS if succeeded else AttackStatus.FAILED
        return self._result(example, status, original, found.text, asked, losses)

    def ranked(self, words: Words, asked: _Asked) -> list[int]:
        """Return the words to swap, the most important first; equally important ones keep the order of the text.

        Words that the budget of queries leaves unread are not swapped: it has nothing left by then.
        """
        kept = self.goal.protected
        open_to_swaps = [i for i, word in enumerate(words.words) if not is_stop_word(word) and word.lower() not in kept]
        hidden = asked.affordable([self.hidden(words, index) for index in open_to_swaps])
        ranks = [result.importance for result in asked.get_results(hidden)]
        scores = dict(zip(open_to_swaps[: len(ranks)], ranks, strict=True))
        return sorted(scores, key=lambda index: -scores[index])

    def _search(self, original: Words, order: Sequence[int], asked: _Asked) -> tuple[Words, list[float], bool]:
        """Return the text found, the score after each swap, and whether the last one reached the goal."""
        current, losses = original, list[float]()
        (before,) = asked.get_results([original.text])
        score = before.score
        for index in order:
            if len(losses) == self.most_changes(len(original.words)) or asked.is_spent:
                break
            swapped = [current.replaced(index, word) for word in self.allowed(original, index)]
            swaps = self.similar(original, current, index, swapped) if swapped else []
            texts = asked.affordable([swap.words.text for swap in swaps])
            if not texts:
                continue
            best, result = best_swap(swaps[: len(texts)], asked.get_results(texts))
            if result.succeeded or result.score > score:
                current, score = best.words, result.score
                losses.append(score)
            if result.succeeded:
                return current, losses, True
        return current, losses, False

    def allowed(self, original: Words, index: int) -> list[str]:
        """Return the candidates for word ``index`` that are neither stop words, nor the word itself, nor an antonym."""
        own = original.words[index]
        opposite = self._antonyms.get(own.lower(), ())
        kept = [word for word in self.candidates(original, index) if not is_stop_word(word)]
        return [word for word in dict.fromkeys(kept) if word.lower() != own.lower() and word.lower() not in opposite]

    def _result(
        self, example: AttackExample, status: AttackStatus, original: str, found: str, asked: _Asked,
        losses: Sequence[float],
    ) -> AttackResult:  # fmt: skip
        attacked, won = status is not AttackStatus.SKIPPED, status is AttackStatus.SUCCESS
        return AttackResult.of(
            example, self.name, self.goal.bitmap, status, original, found, queries=asked.queries, seed=self.seed,
            samples=int(attacked), wrong_samples=int(won), losses=tuple(losses),
            measures=self.goal.measures(original, found), substitutes=self.substitutes,
        )  # fmt: skip


class _Asked:
    """The victim, asked about changes of one text; ``queries``: texts read so far, the original among them.

    A victim that reads a text at several precisions to give one result is queried as often.  ``most`` is the budget,
    which the reading of the original is never refused for; None sets no bound.
    """

    def __init__(self, goal: Goal, original: str, label: int, most: int | None = None) -> None:
        self._goal, self._original, self._label, self._most = goal, original, label, most
        self.queries = goal.queries_per_text

    @property
    def left(self) -> float:
        """How many more texts may be read."""
        return math.inf if self._most is None else (self._most - self.queries) // self._goal.queries_per_text

    @property
    def is_spent(self) -> bool:
        """Whether no further text may be read."""
        return self.left < 1

    def affordable(self, texts: Sequence[str]) -> list[str]:
        """Return the beginning of ``texts`` that the budget allows to read; equal texts, and the original, cost nothing
        more.
        """
        new = {self._original}
        for place, text in enumerate(texts):
            new.add(text)
            if len(new) - 1 > self.left:
                return list(texts[:place])
        return list(texts)

    def get_results(self, texts: Sequence[str]) -> list[GoalFunctionResult]:
        """Return the result of each text; equal texts are read once, and the original is never read again."""
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return []
        self.queries += self._goal.queries_per_text * sum(text != self._original for text in distinct)
        found = dict(zip(distinct, self._goal.get_results(self._original, self._label, distinct), strict=True))
        return [found[text] for text in texts]


def best_swap(swaps: Sequence[Swap], results: Sequence[GoalFunctionResult]) -> tuple[Swap, GoalFunctionResult]:
    """Return the most similar swap that reaches the goal; where none does, the one with the largest score."""
    pairs = list(zip(swaps, results, strict=True))
    succeeded = [pair for pair in pairs if pair[1].succeeded]
    if succeeded:
        return max(succeeded, key=lambda pair: pair[0].similarity)
    return max(pairs, key=lambda pair: pair[1].score)
