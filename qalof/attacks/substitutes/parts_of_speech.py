"""A tagger of single words by their endings, in place of a trained one.

A word swaps with one of the same part of speech, or a noun with a verb (TextFooler's rule), so nouns and verbs need not
be distinguished. An ending that says nothing allows every part, and a swap is refused only where the two words have no
part in common: in doubt, the filter lets a swap pass.
"""

from __future__ import annotations

NAME = "suffix tagger"

NOUN_OR_VERB, ADJECTIVE, ADVERB = "noun or verb", "adjective", "adverb"
ANY = frozenset({NOUN_OR_VERB, ADJECTIVE, ADVERB})

_WORDS: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "friendly lovely lonely lively ugly silly holy costly deadly elderly ghastly homely jolly manly orderly",
        frozenset({ADJECTIVE}),
    ),
    (
        "family reply supply apply rely ally belly bully fly jelly lily rally tally assembly anomaly monopoly",
        frozenset({NOUN_OR_VERB}),
    ),
    ("early only daily weekly monthly yearly likely hourly", frozenset({ADJECTIVE, ADVERB})),
    ("quite rather almost often soon always perhaps maybe", frozenset({ADVERB})),
)
_KNOWN = {word: parts for words, parts in _WORDS for word in words.split()}
_ENDINGS: tuple[tuple[str, frozenset[str]], ...] = (
    ("tion sion ment ness ity ship hood ism ance ence ency ancy dom ize ise ify", frozenset({NOUN_OR_VERB})),
    ("ous ful less able ible ish ical", frozenset({ADJECTIVE})),
    ("ing ed ic al ive ant ent ary ory ist", frozenset({NOUN_OR_VERB, ADJECTIVE})),
    ("ly", frozenset({ADVERB})),
)
_LEAST_STEM = 2


def parts_of_speech(word: str) -> frozenset[str]:
    """Return the parts of speech that a word may be: :data:`NOUN_OR_VERB`, :data:`ADJECTIVE`, :data:`ADVERB`."""
    lower = word.lower()
    if lower in _KNOWN:
        return _KNOWN[lower]
    for endings, parts in _ENDINGS:
        if any(lower.endswith(end) and len(lower) >= len(end) + _LEAST_STEM for end in endings.split()):
            return parts
    return ANY


def may_replace(word: str, other: str) -> bool:
    """Return whether the two words may be of one part of speech, or noun and verb."""
    return bool(parts_of_speech(word) & parts_of_speech(other))
