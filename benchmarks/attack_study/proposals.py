"""BERT-Attack whose words for a place are proposed once, and not again for each precision that is attacked.

They depend on the text and the language model alone, and take most of the time of an attack on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qalof.attacks.methods.bert_attack import BertAttackSettings, Proposer
from qalof.attacks.words import Words

Known = dict[tuple[str, str, int], list[str]]
"""What was proposed, by the proposer's name, the text and the place in it."""


class Remembered:
    """A proposer that looks first into what is known."""

    def __init__(self, proposer: Proposer, known: Known) -> None:
        self.name = proposer.name
        self._proposer, self._known = proposer, known

    def candidates(self, words: Words, index: int) -> list[str]:
        """Return words for the place ``index``, the likeliest first."""
        key = (self.name, words.text, index)
        if key not in self._known:
            self._known[key] = self._proposer.candidates(words, index)
        return self._known[key]


@dataclass(frozen=True)
class RememberingBertAttack(BertAttackSettings):
    """The settings of BERT-Attack for several precisions of the same texts, with one language model."""

    known: Known = field(default_factory=dict, compare=False, repr=False)
    """What the attacks that were built from these settings have proposed."""

    def proposer(self, lm: Any, tokenizer: Any) -> Proposer:
        """Build what proposes words; all that are built share what is known."""
        return Remembered(super().proposer(lm, tokenizer), self.known)
