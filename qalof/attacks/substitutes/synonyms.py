"""Synonyms are neighbors in a model's input embeddings, or come from a list of the user.

The papers take neighbors in counter-fitted word vectors, whose antonyms were pushed apart.  In input embeddings they
were not: their neighbors share the *use* of a word, so "hot" may be near "cold", and a list of antonyms to drop helps.
The embeddings' mean is removed first, since in GPT-2 all rows have similar directions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn import functional

from qalof.attacks.victim import embedding_matrix
from qalof.errors import BadInputError
from qalof.home import expanded
from qalof.precision import at_least_float32
from qalof.reading import is_file, read_lines

EMBEDDINGS = "embeddings"
_WORD_BEGINS = ("\u0120", "\u2581")  # how byte-level BPE and SentencePiece write the space before a word
Thesaurus = Mapping[str, tuple[str, ...]]


class Synonyms(Protocol):
    """A source of synonyms."""

    name: str

    def of(self, word: str) -> Sequence[str]:
        """Return lower-case synonyms of a word, the nearest first; an unknown word has none."""
        ...


class EmbeddingNeighbors:
    """The nearest whole words by cosine, of a word that is one token.

    Args:
        lm: its input embeddings are taken.
        tokenizer: of it.
        least_cosine: the least cosine of a neighbor.
        most: the most neighbors of a word.
    """

    name = "neighbors in the input embeddings"

    def __init__(self, lm: Any, tokenizer: Any, least_cosine: float, most: int) -> None:
        ids = whole_words(tokenizer)
        embedding = at_least_float32(embedding_matrix(lm))
        rows = torch.tensor(list(ids.values()), dtype=torch.int64, device=embedding.device)
        self._rows = functional.normalize(embedding[rows] - embedding.mean(0), dim=-1)
        self._words, self._place = list(ids), {word: place for place, word in enumerate(ids)}
        self._least, self._most = least_cosine, most

    def of(self, word: str) -> Sequence[str]:
        """See :class:`Synonyms`."""
        place = self._place.get(word.lower())
        if place is None:
            return []
        cosines = self._rows @ self._rows[place]
        cosines[place] = -torch.inf
        values, places = cosines.sort(descending=True, stable=True)
        near = int((values[: self._most] >= self._least).sum())
        return [self._words[index] for index in places[:near].tolist()]


class ListedSynonyms:
    """A user's list; see :func:`read_thesaurus`."""

    def __init__(self, path: str, most: int) -> None:
        self.name = f"list {Path(path).name}"
        self._listed, self._most = read_thesaurus(path), most

    def of(self, word: str) -> Sequence[str]:
        """See :class:`Synonyms`."""
        return self._listed.get(word.lower(), ())[: self._most]


def whole_words(tokenizer: Any) -> dict[str, int]:
    """Return lower-case word -> token id, for the tokens that begin with a space and consist of letters."""
    tokens: list[str] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    words = {
        token[1:]: index
        for index, token in enumerate(tokens)
        if token is not None and token.startswith(_WORD_BEGINS) and token[1:].isalpha()
    }
    return {word: index for word, index in words.items() if len(word) > 1 and word.islower()}


def read_thesaurus(path: str) -> Thesaurus:
    """Return lower-case word -> its synonyms, in the order of the file.

    Two forms: lines ``word<TAB>word``, unordered pairs; or, in a file named ``*.jsonl``, lines
    ``{"word": w, "synonyms": [...], "similar": [...]}``, of which ``similar`` and further keys may be missing.

    Raises:
        BadInputError: no such file, one without a pair, or a line of another form; names the line.
    """
    file = expanded(path)
    if not is_file(file):
        raise BadInputError(f"word list {path} does not exist: give a .tsv of pairs or a .jsonl of words with synonyms")
    stat = file.stat()
    return _read(file.absolute(), (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=8)
def _read(file: Path, changed: tuple[int, int]) -> Thesaurus:
    """Read a list; ``changed`` has the file's time and size, so a cache never returns an older one."""
    listed: dict[str, dict[str, None]] = {}
    for number, line in read_lines(file, "word list"):
        if not line.strip():
            continue
        for word, other in _entry(line) if file.suffix == ".jsonl" else _pair(line):
            # a phrase would shift all words after it, and a control character is no part of a word
            if any(len(each.split()) != 1 or not each.isprintable() for each in (word, other)):
                form = '{"word": ..., "synonyms": [...]}' if file.suffix == ".jsonl" else "two words with a tab between"
                raise BadInputError(f"word list {file}, line {number} must be {form}: got {line[:80]!r}")
            if word != other:
                listed.setdefault(word, {})[other] = None
    if not listed:
        raise BadInputError(f"word list {file} must hold at least one pair of different words: it holds none")
    return {word: tuple(others) for word, others in listed.items()}


def _pair(line: str) -> list[tuple[str, str]]:
    """Return both directions of a pair; an empty word stands for a line that is no pair."""
    words = [part.strip().lower() for part in line.split("\t")]
    return [(words[0], words[1]), (words[1], words[0])] if len(words) == 2 else [("", "")]


def _entry(line: str) -> list[tuple[str, str]]:
    """Return a word with each of its synonyms; a line of another form gives an empty word."""
    try:
        row = json.loads(line)
        word, others = row["word"], [*row["synonyms"], *row.get("similar", ())]
        return [(word.strip().lower(), other.strip().lower()) for other in others]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [("", "")]
