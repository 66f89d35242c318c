"""BERT-Attack (Li et al., EMNLP 2020, arXiv 2004.09984; docs/methods/attacks.md) on classifiers and causal language
models.

The search is that of :mod:`qalof.attacks.methods.substitution`.  These are BERT-Attack's own choices:

- A word is hidden by a mask: the tokenizer's mask token, or its unknown token (the official code's).  Where the unknown
  token is also the end of text, as in GPT-2, it would not hide a word but cut the text in two; the word is then
  left out instead.
- Candidates are the top K = 48 of a language model at the word's place, found in the original text and not in the one
  with earlier swaps; sub-words and stop words are dropped.  With ``masked_lm`` a masked model proposes them
  (:mod:`qalof.attacks.substitutes.masked_words`); where none is at hand,
  :mod:`qalof.attacks.substitutes.left_context` says what replaces it.  Both say how they handle words of several
  pieces.
- At most 40 % of a text's words are swapped (the official code lets one more pass).
- Similar enough: the whole text against the original, cosine 0.2 (TextAttack's).  The paper drops finished texts;
  dropping candidates loses no text that another candidate saves.  What fits a place may be the opposite of what stood
  there, and mean states tell opposites apart poorly: a list of ``antonyms`` or a stricter similarity keeps them out.
- The last word is ranked like any other (the official code leaves it out).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from qalof.attacks.attack import Work
from qalof.attacks.goal import Goal
from qalof.attacks.methods.substitution import Swap, WordAttack, WordAttackSettings
from qalof.attacks.result import AttackExample
from qalof.attacks.substitutes import stop_words
from qalof.attacks.substitutes.left_context import PROPOSED, LeftContext
from qalof.attacks.substitutes.masked_words import LEFT_CONTEXT, MaskedWords, check_masked_lm
from qalof.attacks.substitutes.sentence_encoder import similarity_of
from qalof.attacks.substitutes.similarity import Metric, Similarity
from qalof.attacks.victim import Precisions
from qalof.attacks.words import Words
from qalof.laws import Count, Law
from qalof.paths import PathField
from qalof.tasks.base import Task


@dataclass(frozen=True)
class BertAttackSettings(WordAttackSettings):
    """The settings of BERT-Attack."""

    masked_lm: Annotated[str, PathField(words=(LEFT_CONTEXT,), hub=True)] = LEFT_CONTEXT
    """What proposes words: the folder of a masked language model with its head, such as BERT's, or its stand-in
    ``left-context``, the attack's causal language model."""
    candidates: Count = 48
    """The most candidates for a word (K)."""
    most_changed: Annotated[float, Law(gt=0, le=1)] = 0.4
    """The greatest share of a text's words that may be swapped."""
    metric: Metric = "cosine"
    """How similarity is measured."""
    least_similarity: Annotated[float, Law(ge=-1, le=1)] = 0.2
    """The least similarity of the whole text to the original; thresholds of other encoders do not carry over."""

    def examples(self, task: Task) -> list[AttackExample]:
        """Return what is attacked; a masked language model is looked at too, as a check."""
        if self.masked_lm != LEFT_CONTEXT:
            check_masked_lm(self.masked_lm)
        return super().examples(task)

    def work(self, tokens: int) -> Work:
        """Count each token as a word: the LM reads proposals, and the victim and, for similarity, the LM read
        candidates.
        """
        swaps = int(tokens * self.candidates)
        return Work(0, self.most_read(1 + tokens + swaps) + tokens + (1 + PROPOSED) * swaps)

    def build(
        self, model: Any, tokenizer: Any, lm: Any, seed: int = 0, precisions: Precisions | None = None
    ) -> BertAttack:
        """Build the attack on a classifier or a language model; ``lm`` gives similarity, and candidates where no masked
        language model does.
        """
        similarity = similarity_of(self.encoder, lm, tokenizer, self.metric, self.layer, self.idf)
        goal, proposer = self.goal(model, tokenizer, precisions), self.proposer(lm, tokenizer)
        return BertAttack(goal, self, proposer, similarity, mask_of(tokenizer), seed)

    def proposer(self, lm: Any, tokenizer: Any) -> Proposer:
        """Build what proposes words: the masked language model, or its stand-in, which reads with ``lm``."""
        if self.masked_lm == LEFT_CONTEXT:
            return LeftContext(lm, tokenizer, self.candidates)
        return MaskedWords(self.masked_lm, self.candidates, lm.device)


class Proposer(Protocol):
    """Proposes words for a place in a text."""

    name: str

    def candidates(self, words: Words, index: int) -> list[str]:
        """Return words for the place ``index``, the likeliest first."""
        ...


class BertAttack(WordAttack):
    """See the module's docstring; ``mask`` None leaves a word out to hide it."""

    name = "bert-attack"

    def __init__(
        self, goal: Goal, settings: BertAttackSettings, proposer: Proposer, similarity: Similarity,
        mask: str | None, seed: int = 0,
    ) -> None:  # fmt: skip
        names = {
            "masked language model": proposer.name,
            "mask": mask or "left out",
            "similarity": similarity.name,
            "stop words": stop_words.NAME,
        }
        super().__init__(goal, settings, names, seed)
        self._settings, self._proposer, self._similarity, self._mask = settings, proposer, similarity, mask

    def hidden(self, words: Words, index: int) -> str:
        """Return the text with the word masked or left out."""
        return words.without(index) if self._mask is None else words.replaced(index, self._mask).text

    def candidates(self, original: Words, index: int) -> list[str]:
        """Return the words that the language model proposes there, the likeliest first."""
        return self._proposer.candidates(original, index)

    def similar(self, original: Words, current: Words, index: int, swapped: Sequence[Words]) -> list[Swap]:
        """Compare the whole text with the original."""
        scores = self._similarity.of(original.text, [words.text for words in swapped])
        least = self._settings.least_similarity
        return [Swap(words, score) for words, score in zip(swapped, scores, strict=True) if score >= least]

    def most_changes(self, words: int) -> int:
        """Return 40 % of the words, rounded down."""
        return int(self._settings.most_changed * words)


def mask_of(tokenizer: Any) -> str | None:
    """Return the token that hides a word from a victim with this tokenizer; None where no token means that."""
    mask: str | None = tokenizer.mask_token or tokenizer.unk_token
    return None if mask == tokenizer.eos_token else mask
