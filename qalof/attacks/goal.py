"""The goal of an attack, apart from its search (docs/methods/attacks.md).

- :class:`LabelGoal`: a classifier is to give another label than the true one.
- :class:`~qalof.attacks.continuation_goal.ContinuationGoal`: a causal language model is to find its text less likely.
- :class:`~qalof.attacks.answer_goal.AnswerGoal`: a model that answers questions is to answer without a right word.

A goal scores texts for the attack that searches (:class:`Goal`), and answers for the tables of transfer and random
precision (:class:`GoalFunction`) in labels: a classifier's own, or whether the attack failed or
succeeded.
:func:`qalof.attacks.goals.label_or_continuation` chooses among them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import torch

from qalof.attacks.victim import Victim

FAILED, SUCCEEDED = 0, 1
"""The labels of goals other than a classifier's: a text that did not reach the goal, and one that did."""
TOKENS_AT_ONCE = 1024
Reading = TypeVar("Reading")


class TargetedGoal(Protocol):
    """The example that a row of texts belongs to."""

    @property
    def label(self) -> int:
        """The true label."""
        ...

    @property
    def target(self) -> str:
        """The output that a prompt is to elicit; empty for another goal."""
        ...

    @property
    def example_id(self) -> int:
        """Its index in the split."""
        ...


class GoalFunction(Protocol):
    """Answers for the tables; ``answers`` that differ from the example's label mean that an attack got through."""

    model: Any

    def answers(self, examples: Sequence[TargetedGoal], rows: Sequence[Sequence[str]]) -> list[list[int]]:
        """Return the answers to every text at the model's bitmap; each row begins with the example's clean text."""
        ...


class GoalFunctionResult(NamedTuple):
    """What one changed text comes to; ``score`` and ``importance`` grow as the victim does worse.

    ``score``: what the search maximizes; ``importance``: the score by which words are ranked once they are left out.
    """

    score: float
    importance: float
    succeeded: bool


class Goal(GoalFunction, Protocol):
    """Scores for a search over texts."""

    @property
    def bitmap(self) -> str:
        """Where the victim runs, as printed."""
        ...

    @property
    def queries_per_text(self) -> int:
        """How often the victim reads a text to give one result."""
        ...

    @property
    def protected(self) -> frozenset[str]:
        """The lower-case words that no attack on the example may change."""
        ...

    def begin(self, example: int) -> None:
        """Begin an attack on an example."""
        ...

    def read(self, text: str) -> str:
        """Return the text as the victim reads it, cut to its length."""
        ...

    def lost(self, original: str, label: int) -> bool:
        """Return whether the victim is wrong before any attack."""
        ...

    def get_results(self, original: str, label: int, texts: Sequence[str]) -> list[GoalFunctionResult]:
        """Return the results of ``texts``, which are changes of ``original``."""
        ...

    def measures(self, original: str, found: str) -> Mapping[str, float]:
        """Return figures for the record, before and after the attack."""
        ...


class VictimGoal(ABC, Generic[Reading]):
    """The common part of the goals: a victim, and the original, which is read once in a search."""

    def __init__(self, victim: Victim) -> None:
        self.victim, self.model = victim, victim.model
        self._originals: dict[tuple[str, str], Reading] = {}

    def apart(self) -> Self:
        """Return the same goal for a search beside this one: the model is shared, and what a search notes is not."""
        other = copy(self)
        other.victim, other._originals = copy(self.victim), {}
        return other

    @property
    def bitmap(self) -> str:
        """Where the victim runs, as printed."""
        return self.victim.bitmap

    @property
    def queries_per_text(self) -> int:
        """How often the victim reads a text to give one result."""
        return self.victim.queries_per_text

    @property
    def protected(self) -> frozenset[str]:
        """No word, unless a goal says otherwise."""
        return frozenset()

    def begin(self, example: int) -> None:
        """Begin an attack on an example: nothing that was read before has a part in it."""
        self.victim.begin(example)
        self._originals = {}

    def read(self, text: str) -> str:
        """Return the text as the victim reads it, cut to its length."""
        return self.victim.decode(self.victim.encode([text])[0])

    @abstractmethod
    def _readings(self, texts: Sequence[str]) -> Sequence[Reading]:
        """Return the reading of each text, at the victim's bitmap."""

    def _original(self, text: str) -> Reading:
        key = (self.bitmap, text)
        if key not in self._originals:
            self._originals = {key: self._readings([text])[0]}  # a search stays with one text
        return self._originals[key]

    def _changed(self, original: str, texts: Sequence[str]) -> list[Reading]:
        """Return the readings of ``texts``; those that equal the original are not read again."""
        changed = [text for text in texts if text != original]
        read = iter(self._readings(changed) if changed else ())
        return [self._original(original) if text == original else next(read) for text in texts]


class LabelGoal(VictimGoal[torch.Tensor]):
    """``score``: 1 - P_y.  ``importance``: TextFooler's, P_y(x) - P_y(x'), and P_k(x') - P_k(x) if it flips to k."""

    def lost(self, original: str, label: int) -> bool:
        """Return whether it is misclassified before any attack."""
        return int(self._original(original).argmax()) != label

    def answers(self, examples: Sequence[TargetedGoal], rows: Sequence[Sequence[str]]) -> list[list[int]]:
        """Return the predicted labels."""
        flat = iter(self.victim.predict([text for row in rows for text in row]))
        return [[next(flat) for _ in row] for row in rows]

    def get_results(self, original: str, label: int, texts: Sequence[str]) -> list[GoalFunctionResult]:
        """Return the results of changes of ``original``, which is read once in a search."""
        before, found = self._original(original), []
        for p in self._changed(original, texts):
            k = int(p.argmax())
            gained = 0.0 if k == label else float(p[k] - before[k])
            found.append(GoalFunctionResult(float(1 - p[label]), float(before[label] - p[label]) + gained, k != label))
        return found

    def measures(self, original: str, found: str) -> Mapping[str, float]:
        """Return no measures."""
        return {}

    def _readings(self, texts: Sequence[str]) -> Sequence[torch.Tensor]:
        """Return the probabilities of each text, (classes,)."""
        return list(self.victim.logits(texts).double().softmax(-1))
