"""``evolutionary``: one parent, and children that move bits from one unit to another (after EvoPress, Sieberling et al.
2024, Algorithm 1).

The parent is the best bitmap so far by the first measured objective; further ones count on the front alone.  A child
takes a few pairs of steps: one unit one step up its menu, another one step down, so the child costs about what its
parent does; it is then lowered until every limit holds.  The first generation holds the uniform bitmaps within the
limits and the most expensive bitmap that is lowered into them.  Where pairs of steps lead to nothing new, random
bitmaps fill the generation, and where these are all known too the search ends.

With ``race`` more children are born than are evaluated.  They race over growing sets of examples: each heat sees more
of them than the one before, and the better half goes on.  The last half is the generation, which is evaluated in full
and counted; heats are not counted, and the trace says how many bitmaps and examples each had.  A race is off unless it
is asked for, since few examples choose badly where the differences are small: with 256 positions such a search gained
6 % on them and lost 4 % on other text (docs/methods/guided_search.md).

On a language model of 210 sites it needs thousands of evaluations where :mod:`search.strategies.guided` needs tens; it
is here to be compared with, and for metrics that no table of scores foretells.
"""

from __future__ import annotations

import random as rng
from collections.abc import Generator, Sequence
from itertools import pairwise
from typing import Any

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.laws import Count
from qalof.metrics import ADVERSARIAL_ACCURACY
from search.budget import Indices
from search.measurement import HeatWanted, Measurement
from search.objective import Objective, Score
from search.space import BitmapSpace
from search.strategies.base import Strategy, StrategyContext

GENERATION_SIZE = 8
TRIES = 16
"""How often a place of a generation is tried before it stays empty."""


def evolutionary(
    context: StrategyContext, *, generation_size: Count = GENERATION_SIZE, pairs: Count = 3, race: Sequence[Count] = ()
) -> Strategy:
    """Improve one bitmap by moving bits between units.

    Args:
        context: space, objectives and seed.
        generation_size: the number of children in a generation.
        pairs: the most pairs of steps of a child.
        race: how many examples each heat sees; each doubles the children that are born.  None race where it is empty.

    Raises:
        BadInputError: All objectives are costs, a heat sees no more than the one before it, or the objective is no mean
            over examples.
    """
    space, objective = context.space, context.primary_metric()
    _check_race(race, objective)
    draws = rng.Random(context.seed)
    known: dict[Bitmap, Score] = {}
    top = space.bitmap(space.budget.lowered([unit.choices - 1 for unit in space.units]))
    generation = list(dict.fromkeys((*space.uniform(), top)))
    while generation:
        scores = yield generation
        known |= dict(zip(generation, scores, strict=True))
        parent = max(known.values(), key=lambda score: score.rank(objective.name, objective.sign))
        born = generation_size * 2 ** len(race)
        generation = _children(space, space.encode(parent.bitmap), known, draws, born, pairs)
        for examples in race:
            generation = yield from _heat(context, generation, objective, examples, generation_size)


def _check_race(race: Sequence[int], objective: Objective) -> None:
    if any(after <= before for before, after in pairwise(race)):
        raise BadInputError(f"race must name growing numbers of examples: got {list(race)}; [8, 32] would do")
    if race and objective.name == ADVERSARIAL_ACCURACY:
        raise BadInputError(
            f"a race must be over examples: {objective.name} attacks a fixed set of texts; leave it out"
        )


def _heat(
    context: StrategyContext, bitmaps: list[Bitmap], objective: Objective, examples: int, least: int
) -> Generator[list[Bitmap] | Measurement, list[Any], list[Bitmap]]:
    """Return the better half of ``bitmaps`` on a few examples, best first, but at least ``least`` of them."""
    if len(bitmaps) <= least:
        return bitmaps
    (taken,) = yield HeatWanted(tuple(bitmaps), objective.name, examples)
    values = dict(zip(bitmaps, taken["values"], strict=True))
    worst = float("-inf")
    ranked = sorted(bitmaps, key=lambda b: worst if values[b] is None else objective.sign * values[b], reverse=True)
    kept = ranked[: max(least, len(bitmaps) // 2)]
    context.trace.append({"heat": objective.name, "examples": examples, "bitmaps": len(bitmaps), "kept": len(kept)})
    return kept


def _children(
    space: BitmapSpace, parent: Indices, known: dict[Bitmap, Score], draws: rng.Random, size: int, pairs: int
) -> list[Bitmap]:
    found: dict[Bitmap, None] = {}
    for attempt in range(2 * TRIES * size):
        if len(found) == size:
            break
        moved = attempt < TRIES * size
        picks = _moved(space, parent, draws.randint(1, pairs), draws) if moved else _drawn(space, draws)
        bitmap = space.bitmap(space.budget.lowered(picks))
        if bitmap not in known:
            found[bitmap] = None
    return list(found)


def _moved(space: BitmapSpace, parent: Sequence[int], pairs: int, draws: rng.Random) -> list[int]:
    """Return picks with one unit a step up and another a step down, for each pair."""
    picks = list(parent)
    for _ in range(pairs):
        up = [unit for unit, pick in enumerate(picks) if pick + 1 < space.units[unit].choices]
        down = [unit for unit, pick in enumerate(picks) if pick > 0]
        if up:
            picks[raised := draws.choice(up)] += 1
            down = [unit for unit in down if unit != raised]
        if down:
            picks[draws.choice(down)] -= 1
    return picks


def _drawn(space: BitmapSpace, draws: rng.Random) -> list[int]:
    return [draws.randrange(unit.choices) for unit in space.units]
