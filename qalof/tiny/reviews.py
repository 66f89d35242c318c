"""Short labeled reviews for the classifier that the attacks are tried on.

A review is two to four clauses, of which one to three carry an opinion and the rest say nothing. Each opinion has a
strength, in units of a weak word (`nice` +1, `superb` +3, `bland` -1): an adverb scales it, `not` inverts it, and the
label is the sign of the sum. So the label depends on a few words, some of which have neighbors of the same meaning and
another strength, which is what a word substitution attack needs. A text whose sum is nearer to zero than `MARGIN` is
drawn again: its label would be a matter of taste.
"""

import random
from collections.abc import Collection
from typing import NamedTuple

LABELS = ("negative", "positive")
MARGIN = 1.0
MIXED_SHARE = 0.3  # share of opinions drawn against the label, so that no single word decides

OPINIONS: dict[str, float] = {
    **dict.fromkeys(["superb", "wonderful", "excellent", "brilliant", "perfect", "amazing", "fantastic"], 3.0),
    **dict.fromkeys(["great", "lovely", "delightful", "charming", "fresh", "friendly", "splendid"], 2.0),
    **dict.fromkeys(["good", "nice", "pleasant", "decent", "fine", "solid", "kind"], 1.0),
    **dict.fromkeys(["terrible", "awful", "dreadful", "horrible", "disgusting", "shocking", "hopeless"], -3.0),
    **dict.fromkeys(["bad", "poor", "dull", "boring", "rude", "nasty", "ugly"], -2.0),
    **dict.fromkeys(["bland", "slow", "weak", "tired", "noisy", "stale", "plain"], -1.0),
}
VERBS: dict[str, float] = {
    "loved": 3.0,
    "adored": 3.0,
    "enjoyed": 2.0,
    "admired": 2.0,
    "liked": 1.0,
    "praised": 2.0,
    "hated": -3.0,
    "detested": -3.0,
    "disliked": -2.0,
    "regretted": -2.0,
    "avoided": -1.0,
    "left": -1.0,
}
ADVERBS: dict[str, float] = {
    "": 1.0,
    "very": 1.5,
    "really": 1.5,
    "truly": 1.5,
    "quite": 1.0,
    "rather": 1.0,
    "slightly": 0.5,
    "somewhat": 0.5,
}
SUBJECTS = [
    "food",
    "soup",
    "bread",
    "room",
    "bed",
    "hotel",
    "film",
    "story",
    "music",
    "service",
    "waiter",
    "staff",
    "garden",
    "book",
    "ending",
    "actor",
    "cook",
    "wine",
    "house",
    "show",
    "singer",
    "play",
    "shop",
    "market",
    "street",
]
VERB_FORMS = ("I {w} the {s}", "we {w} the {s}", "my brother {w} the {s}", "all of us {w} the {s}")
ADJECTIVE_FORMS = (
    "the {s} was {w}",
    "the {s} seemed {w}",
    "I found the {s} {w}",
    "we thought the {s} was {w}",
    "it was a {w} {s}",
)
FILLERS = (
    "we came on a Monday",
    "we came on a Friday",
    "my sister paid the bill",
    "the table was near the door",
    "it is close to the market",
    "we stayed for two days",
    "it took about an hour",
    "the walls are painted blue",
    "there is a shop next door",
    "I went there with my brother",
    "it rained in the evening",
    "we sat by the window",
)
JOINS = (" and ", ", but ", ". ", ". ", ", while ")


class Review(NamedTuple):
    """One labeled text; `label` is an index into `LABELS`."""

    text: str
    label: int


def _opinion(rng: random.Random, sign: int) -> tuple[str, float]:
    """Return one clause and its strength; `sign` is the sign that the strength must have."""
    while True:
        subject = rng.choice(SUBJECTS)
        if rng.random() < 0.3:
            word, score = rng.choice(list(VERBS.items()))
            clause = rng.choice(VERB_FORMS).format(w=word, s=subject)
        else:
            adjective, score = rng.choice(list(OPINIONS.items()))
            adverb, factor = rng.choice(list(ADVERBS.items())) if rng.random() < 0.5 else ("", 1.0)
            words = [adverb, adjective] if adverb else [adjective]
            score *= factor
            if not adverb and rng.random() < 0.15:
                words, score = ["not", *words], -score
            form = rng.choice(ADJECTIVE_FORMS[:4] if words[0] == "not" else ADJECTIVE_FORMS)
            clause = form.format(w=" ".join(words), s=subject)
        if score * sign > 0:
            return clause, score


def _join(rng: random.Random, clauses: list[str]) -> str:
    text = clauses[0]
    for clause in clauses[1:]:
        text += rng.choice(JOINS) + clause
    return ". ".join(part[0].upper() + part[1:] for part in text.split(". ")) + "."


def make_review(rng: random.Random, label: int) -> Review:
    """Make one review whose strengths sum to at least `MARGIN` on the label's side."""
    sign = 1 if label else -1
    while True:
        count = rng.randint(1, 3)
        mixed = [rng.random() < MIXED_SHARE for _ in range(count)]
        opinions = [_opinion(rng, -sign if against else sign) for against in mixed]
        if sum(score for _, score in opinions) * sign < MARGIN:
            continue
        clauses = [clause for clause, _ in opinions]
        for filler in rng.sample(FILLERS, rng.randint(0 if count > 1 else 1, 2 if count < 3 else 1)):
            clauses.insert(rng.randint(0, len(clauses)), filler)
        return Review(_join(rng, clauses), label)


def make_reviews(rng: random.Random, count: int, exclude: Collection[str] = ()) -> list[Review]:
    """Make `count` different reviews, the labels in turn, none of whose texts is in `exclude`."""
    seen = set(exclude)
    reviews: list[Review] = []
    while len(reviews) < count:
        review = make_review(rng, len(reviews) % len(LABELS))
        if review.text not in seen:
            seen.add(review.text)
            reviews.append(review)
    return reviews


def true_label(text: str) -> int | None:
    """Return the label that the generator's rule gives any text: the sign of its opinions' sum, None nearer to zero
    than `MARGIN`.

    A word that the generator does not know says nothing. So an attack that turns `superb` into `bland` changes the
    label, and one that turns it into `brilliant` does not.
    """
    words = [word.strip(".,;:!?()\"'").lower() for word in text.split()]
    total = 0.0
    for index, word in enumerate(words):
        score = OPINIONS.get(word, VERBS.get(word, 0.0))
        before = words[index - 1] if index else ""
        total += -score if before == "not" else score * ADVERBS.get(before, 1.0)
    return None if abs(total) < MARGIN else int(total > 0)
