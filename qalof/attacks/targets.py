"""Outputs that a prompt is to elicit (docs/methods/attacks.md, "arca").

The reference aims at toxic strings, of which none is shipped.  An attack shows that some prompt makes a model say what
its author chose, and harmless strings show that as well; a user who needs others gives a file.
"""

from __future__ import annotations

from qalof.attacks.goal import FAILED
from qalof.attacks.result import AttackExample
from qalof.errors import BadInputError
from qalof.home import expanded
from qalof.model.pretrained import HeadKind
from qalof.reading import read_lines
from qalof.tasks.base import Task

HARMLESS = "harmless"
_LINES = (
    "apple pie, blue sky, bright morning, brown bear, candle light, cat nap, chess club, clean water, cold milk",
    "cotton shirt, country road, dark forest, deep river, dinner table, early spring, easy chair, evening walk",
    "family dinner, farm house, fast train, fresh bread, fruit juice, front door, garden gate, gentle rain",
    "glass bottle, golden fields, good morning, grand piano, green tea, happy birthday, heavy snow, high mountain",
    "home garden, honey bees, hot chocolate, ice cream, jazz music, kind words, kitchen window, large library",
    "lemon juice, light breeze, little bird, long bridge, lunch break, maple tree, market square, mild cheese",
    "mint leaves, moon light, morning coffee, mountain lake, museum tour, new shoes, night train, north wind",
    "ocean wave, old castle, olive oil, open window, orange juice, paper boat, park bench, peaceful valley",
    "pine forest, plain rice, pleasant weather, quiet street, rain coat, red bicycle, rice field, river bank",
    "rose garden, round table, sand castle, school choir, sea shell, silver spoon, simple recipe, slow dance",
    "small village, soft pillow, spring flowers, stone wall, straw hat, street market, summer holiday, sunny beach",
    "sweet potato, swimming pool, tall tower, tea party, town hall, train station, travel guide, vegetable soup",
    "warm blanket, water bottle, white rabbit, wild flowers, winter coat, wooden chair, yellow leaf, young tree",
)
HARMLESS_TARGETS = tuple(target for line in _LINES for target in line.split(", "))
"""The texts to elicit.  With a space before it, each has two tokens in GPT-2's tokenizer; other tokenizers may split
them differently."""


def targets_of(source: str) -> tuple[str, ...]:
    """Return the shipped list for ``harmless``, otherwise the lines of a UTF-8 file, without white space around them.

    Raises:
        BadInputError: The file does not exist, is not UTF-8, or is empty.
    """
    if source == HARMLESS:
        return HARMLESS_TARGETS
    path = expanded(source)
    way_out = f"give a UTF-8 file of one target per line, or {HARMLESS!r} for the shipped list"
    try:
        found = tuple(stripped for _, line in read_lines(path, "targets") if (stripped := line.strip()))
    except BadInputError as error:
        raise BadInputError(f"{error}; {way_out}") from None
    if not found:
        raise BadInputError(f"targets {path} must hold at least one line that is not empty: got none; {way_out}")
    return found


def elicited(task: Task, source: str, prefix: str) -> list[AttackExample]:
    """Return one example per target, with ``prefix`` as its text and a space before the target, numbered in order.

    Raises:
        BadInputError: a task that is no causal language model's, or as :func:`targets_of`.
    """
    if task.head is not HeadKind.CAUSAL_LM:
        raise BadInputError(
            f"to elicit a text needs a causal LM's checkpoint: got one of task {task.name}, with a {task.head} head"
        )
    return [AttackExample(index, prefix, FAILED, f" {target}") for index, target in enumerate(targets_of(source))]
