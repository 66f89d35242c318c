"""SQuAD v1.1 scoring (Rajpurkar et al. 2016, arXiv 1606.05250; docs/methods/tasks.md, "Exact match and F1").

Normalization lower-cases, drops ASCII punctuation, drops the words a, an and the, and collapses spaces, in this order.
Exact match is equality and F1 is the overlap of token multisets; both take the best over the gold answers.  In v1.1 an
empty overlap scores 0, so gold "The" against "the" is an exact match with F1 0; the script of version 2 gives 1.

``torchmetrics.functional.text.squad`` computes the same means.  It returns nothing but means, and paired intervals need
the score of each question, so these forty lines stay.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Return the form in which answers are compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DROP_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1.0 if the prediction equals any gold answer after normalization, otherwise 0.0."""
    return float(any(normalize_answer(prediction) == normalize_answer(gold) for gold in answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Return the best token F1 over the gold answers, in [0, 1]."""
    return max((_f1(prediction, gold) for gold in answers), default=0.0)


def _f1(prediction: str, gold: str) -> float:
    predicted, wanted = normalize_answer(prediction).split(), normalize_answer(gold).split()
    overlap = sum((Counter(predicted) & Counter(wanted)).values())
    if overlap == 0:
        return 0.0
    precision, recall = overlap / len(predicted), overlap / len(wanted)
    return 2 * precision * recall / (precision + recall)
