"""TextFooler (Jin et al., AAAI 2020, arXiv 1907.11932; docs/methods/attacks.md) on classifiers and causal language
models.

The search is that of :mod:`qalof.attacks.methods.substitution`.  These are TextFooler's own choices:

- A word is hidden by leaving it out, as the paper has it (the official code puts ``<oov>`` there).
- Candidates are up to 50 synonyms with cosine >= 0.5 (the official code's; the paper says 0.7), of the same part of
  speech, or a noun for a verb.
- Similar enough: a window of 15 words around the swap, in the text with and without it, both with all earlier
  swaps.  The score is 1 - arccos(cos) / pi and must be 0.84 (TextAttack's; the official code forgets the pi).  In texts
  of fewer words than the window the threshold is only 0.1, as in the official code.

The paper's word vectors and encoder are not available; :mod:`qalof.attacks.substitutes` says what replaces them.
Thresholds do not carry over: :data:`TINY_SETTINGS` has those that suit the shipped tiny model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from qalof.attacks.attack import Work
from qalof.attacks.goal import Goal
from qalof.attacks.methods.substitution import Swap, WordAttack, WordAttackSettings
from qalof.attacks.substitutes import parts_of_speech, stop_words
from qalof.attacks.substitutes.sentence_encoder import similarity_of
from qalof.attacks.substitutes.similarity import Metric, Similarity
from qalof.attacks.substitutes.synonyms import EMBEDDINGS, EmbeddingNeighbors, ListedSynonyms, Synonyms
from qalof.attacks.victim import Precisions
from qalof.attacks.words import Words, cased
from qalof.laws import Count, Law
from qalof.paths import PathField

SHORT_TEXT_SIMILARITY = 0.1


@dataclass(frozen=True)
class TextFoolerSettings(WordAttackSettings):
    """The settings of TextFooler."""

    synonyms: Annotated[str, PathField(words=(EMBEDDINGS,))] = EMBEDDINGS
    """Where synonyms come from: ``embeddings`` (the neighbors in the model's own embedding), or the path of a list."""
    most_synonyms: Count = 50
    """The most synonyms that are tried for a word."""
    least_cosine: Annotated[float, Law(ge=-1, le=1)] = 0.5
    """The least cosine between the embeddings of a word and of its synonym; it applies to ``embeddings`` alone."""
    part_of_speech: Literal["suffixes", "off"] = "suffixes"
    """How parts of speech are recognized, which a swap must keep: by ``suffixes``; ``off`` lets all swaps pass."""
    metric: Metric = "angular"
    """How similarity is measured."""
    least_similarity: Annotated[float, Law(ge=-1, le=1)] = 0.84
    """The least similarity of the window around a swap; thresholds of other encoders do not carry over."""
    window: Count = 15
    """How many words around a swap are compared."""

    def lists(self) -> list[str]:
        """Return the user's word lists."""
        return super().lists() + ([] if self.synonyms == EMBEDDINGS else [self.synonyms])

    def work(self, tokens: int) -> Work:
        """Count each token as a word; the victim and, for similarity, the LM read all its synonyms."""
        swaps = tokens * self.most_synonyms
        return Work(0, self.most_read(1 + tokens + swaps) + swaps)

    def build(
        self, model: Any, tokenizer: Any, lm: Any, seed: int = 0, precisions: Precisions | None = None
    ) -> TextFooler:
        """Build the attack on a classifier or a language model; ``lm`` gives similarity and embeddings."""
        synonyms: Synonyms
        if self.synonyms == EMBEDDINGS:
            synonyms = EmbeddingNeighbors(lm, tokenizer, self.least_cosine, self.most_synonyms)
        else:
            synonyms = ListedSynonyms(self.synonyms, self.most_synonyms)
        similarity = similarity_of(self.encoder, lm, tokenizer, self.metric, self.layer, self.idf)
        return TextFooler(self.goal(model, tokenizer, precisions), self, synonyms, similarity, seed)


TINY_SETTINGS = TextFoolerSettings(least_cosine=0.9, least_similarity=0.97)
"""Settings for the tiny model's reviews: "excellent" may replace "wonderful", but neither "hotel" nor "dreadful"
may."""


class TextFooler(WordAttack):
    """See the module's docstring."""

    name = "textfooler"

    def __init__(
        self, goal: Goal, settings: TextFoolerSettings, synonyms: Synonyms, similarity: Similarity, seed: int = 0
    ) -> None:
        tagged = settings.part_of_speech == "suffixes"
        names = {
            "synonyms": synonyms.name,
            "similarity": similarity.name,
            "part of speech": parts_of_speech.NAME if tagged else "off",
            "stop words": stop_words.NAME,
        }
        super().__init__(goal, settings, names, seed)
        self._settings, self._synonyms, self._similarity, self._tagged = settings, synonyms, similarity, tagged

    def hidden(self, words: Words, index: int) -> str:
        """Return the text without the word."""
        return words.without(index)

    def candidates(self, original: Words, index: int) -> list[str]:
        """Return synonyms of a fitting part of speech, the nearest first."""
        own = original.words[index]
        found = [word for word in self._synonyms.of(own) if not self._tagged or parts_of_speech.may_replace(own, word)]
        return [cased(word, own) for word in found]

    def similar(self, original: Words, current: Words, index: int, swapped: Sequence[Words]) -> list[Swap]:
        """Compare the window around the swap with that of the text just before it."""
        start, stop = current.window(index, self._settings.window)
        scores = self._similarity.of(current.part(start, stop), [words.part(start, stop) for words in swapped])
        short = len(current.words) < self._settings.window
        least = SHORT_TEXT_SIMILARITY if short else self._settings.least_similarity
        return [Swap(words, score) for words, score in zip(swapped, scores, strict=True) if score >= least]
