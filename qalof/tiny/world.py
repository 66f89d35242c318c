"""The tiny world: people and places, what is true of them, and contexts with questions about it.

A *fact* is (entity, relation, value). A context tells several facts about a few entities, in shuffled order and
in one of several forms each; entities share relations and an entity has several, so that an answer needs both to
be matched. Answers are literal spans of one to three words.

The two splits share no fact, and the rule is the simplest one: they share no entity. A full name is two words
drawn from common lists, and a fixed share of the *pairs* belongs to validation; so every word of a validation
question has been seen in training, and no fact has. (Splitting facts at random was rejected: a model that
remembers an entity's other facts would be rewarded for it.)

Everything is a pure function of the `random.Random` that is passed in.
"""

import random
from typing import NamedTuple

from qalof.tiny.words import (
    FIRST_NAMES,
    LAST_NAMES,
    OPENERS,
    PLACE_HEADS,
    PLACE_TAILS,
    RELATIONS,
    VALUES,
    Relation,
)

VALIDATION_SHARE = 0.15
SPLIT_SEED = 20_240_501
KINDS = ("person", "place")
SPLITS = ("train", "validation")


class Fact(NamedTuple):
    """One thing that is true in a context."""

    entity: str
    relation: Relation
    value: str


class Question(NamedTuple):
    """A question about one fact; `start` is the answer's first character in the context."""

    text: str
    answer: str
    start: int
    fact: Fact


class Passage(NamedTuple):
    """A context and one question for each of its facts, in the order in which they are told."""

    context: str
    questions: list[Question]


def entities(split: str) -> dict[str, list[str]]:
    """Return the full names of a split by kind ("person", "place"); the two splits are disjoint."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}: got {split!r}")
    rng = random.Random(SPLIT_SEED)
    heads_tails = {"person": (FIRST_NAMES, LAST_NAMES), "place": (PLACE_HEADS, PLACE_TAILS)}
    chosen: dict[str, list[str]] = {}
    for kind in KINDS:
        heads, tails = heads_tails[kind]
        names = [f"{head} {tail}" for head in heads for tail in tails]
        rng.shuffle(names)
        cut = round(VALIDATION_SHARE * len(names))
        chosen[kind] = names[:cut] if split == "validation" else names[cut:]
    return chosen


class World:
    """Draws passages of one split.

    Args of `passage`: `facts`, how many facts the context tells; `subjects`, how many entities share them.
    """

    def __init__(self, split: str, rng: random.Random) -> None:
        self.rng = rng
        self.names = entities(split)
        self._by_word: dict[str, dict[str, list[str]]] = {kind: {} for kind in KINDS}
        for kind in KINDS:
            for name in self.names[kind]:
                for word in name.split():
                    self._by_word[kind].setdefault(word, []).append(name)

    def passage(self, facts: int, subjects: int) -> Passage:
        """Return a context of `facts` facts about `subjects` entities of one kind, with all its questions."""
        drawn = self._facts(self.rng.choice(KINDS), facts, subjects)
        return self._tell(drawn)

    def _subjects(self, kind: str, count: int) -> list[str]:
        """Return `count` names, half of the time with two that share a word, so one word is not enough."""
        names = self.rng.sample(self.names[kind], count)
        if count > 1 and self.rng.random() < 0.5:
            word = self.rng.choice(names[0].split())
            relatives = [name for name in self._by_word[kind][word] if name not in names]
            if relatives:
                names[1] = self.rng.choice(relatives)
        return names

    def _facts(self, kind: str, count: int, subjects: int) -> list[Fact]:
        """Return facts over a grid of subjects and relations: few relations, so the subjects share them."""
        rng = self.rng
        names = self._subjects(kind, subjects)
        pool = [relation for relation in RELATIONS if relation.kind == kind]
        width = min(len(pool), -(-count // subjects) + 1)
        relations = self._related(pool, width)
        cells = [(name, relation) for name in names for relation in relations]
        used: set[str] = set(names)
        facts: list[Fact] = []
        for name, relation in rng.sample(cells, count):
            value = self._value(relation, used)
            used.add(value)
            facts.append(Fact(name, relation, value))
        return facts

    def _related(self, pool: list[Relation], count: int) -> list[Relation]:
        """Return `count` relations, of which two take their values from one list whenever there is room for it."""
        rng = self.rng
        first = rng.choice(pool)
        twins = [relation for relation in pool if relation.values == first.values and relation is not first]
        others = [relation for relation in pool if relation.values != first.values]
        chosen = [first, *twins][:count]
        return chosen + rng.sample(others, count - len(chosen))

    def _value(self, relation: Relation, used: set[str]) -> str:
        """Return a value that no other fact of the context has, so that an answer stands at one place only."""
        choices = self.names["person"] if relation.values == "person" else VALUES[relation.values]
        while True:
            value = self.rng.choice(choices)
            if value not in used:
                return value

    def _tell(self, facts: list[Fact]) -> Passage:
        rng = self.rng
        context = rng.choice(OPENERS)
        questions: list[Question] = []
        waiting = list(facts)
        while waiting:
            group = [waiting.pop(0)]
            same = next((fact for fact in waiting if fact.entity == group[0].entity), None)
            if same is not None and rng.random() < 0.4:
                waiting.remove(same)
                group.append(same)
            for position, fact in enumerate(group):
                before, after = self._form(fact, position, len(group)).split("{v}")
                start = len(context) + len(before)
                context += before + fact.value + after
                asked = rng.choice(fact.relation.questions).format(e=fact.entity)
                questions.append(Question(asked, fact.value, start, fact))
            context += "."
        return Passage(context, questions)

    def _form(self, fact: Fact, position: int, group: int) -> str:
        """Return the words of one fact with `{v}` left open, from the space or the "and" before it."""
        rng = self.rng
        if position > 0:
            return " and " + rng.choice(fact.relation.phrases)
        if group > 1 or rng.random() < 0.6:
            return f" {fact.entity} " + rng.choice(fact.relation.phrases)
        return " " + rng.choice(fact.relation.statements).replace("{e}", fact.entity)
