"""A text as words that can be swapped, with everything between them kept character by character.

There is one word in a run of characters without white space at most, from its first to its last letter or digit
("(well-known)," has the word "well-known"), so swapping n words changes n of the words that
:func:`qalof.attacks.result.words_changed` counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Self

_WORD = re.compile(r"[^\W_](?:\S*[^\W_])?")


@dataclass(frozen=True)
class Words:
    """``words`` of a text, with ``gaps`` before, between and after them, of which there is one more."""

    words: tuple[str, ...]
    gaps: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the words of a text; a text without a letter or digit has none."""
        found = list(_WORD.finditer(text))
        ends = [0, *(match.end() for match in found)]
        starts = [*(match.start() for match in found), len(text)]
        return cls(tuple(m[0] for m in found), tuple(text[a:b] for a, b in zip(ends, starts, strict=True)))

    @property
    def text(self) -> str:
        """The whole text."""
        return self.part(0, len(self.words), ends=True)

    def part(self, start: int, stop: int, ends: bool = False) -> str:
        """Return words ``start`` to ``stop - 1`` with the gaps between; with ``ends``, also those before and after."""
        between = [word + gap for word, gap in zip(self.words[start:stop], self.gaps[start + 1 : stop], strict=False)]
        inner = "".join(between) + (self.words[stop - 1] if stop > start else "")
        return self.gaps[start] + inner + (self.gaps[stop] if stop > start else "") if ends else inner

    def replaced(self, index: int, word: str) -> Self:
        """Return the text with another word at ``index``."""
        return replace(self, words=(*self.words[:index], word, *self.words[index + 1 :]))

    def without(self, index: int) -> str:
        """Return the text without word ``index`` and the white space before it (at the beginning: after it)."""
        before, after = self.gaps[index], self.gaps[index + 1]
        gap = before.rstrip() + after if index else before + after.lstrip()
        rest = replace(
            self,
            words=self.words[:index] + self.words[index + 1 :],
            gaps=(*self.gaps[:index], gap, *self.gaps[index + 2 :]),
        )
        return rest.text

    def before(self, index: int) -> str:
        """Return the text before word ``index``."""
        return "".join(gap + word for gap, word in zip(self.gaps, self.words[:index], strict=False)) + self.gaps[index]

    def window(self, index: int, size: int) -> tuple[int, int]:
        """Return start and stop of ``size`` words around ``index``, moved inwards at the ends of the text."""
        start = max(0, min(index - size // 2, len(self.words) - size))
        return start, min(len(self.words), start + size)


def cased(word: str, like: str) -> str:
    """Return a lower-case word with the capitals of ``like``: none, the first, or (for two letters or more) all."""
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word
