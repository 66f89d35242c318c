"""The strategies that choose bitmaps, by name; :mod:`search.strategies.base` has their contract."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from qalof.errors import BadInputError, nearest_hint
from qalof.laws import check_keywords
from search.objective import Objective, parse_objectives
from search.strategies.base import Row, Strategy, StrategyContext, StrategyFunction
from search.strategies.evolutionary import evolutionary
from search.strategies.greedy import greedy
from search.strategies.guided import guided
from search.strategies.sampled import nsga2, random, tpe
from search.strategies.sensitivity import one_at_a_time

STRATEGIES: Mapping[str, StrategyFunction] = {
    "guided": guided,
    "tpe": tpe,
    "nsga2": nsga2,
    "random": random,
    "evolutionary": evolutionary,
    "one_at_a_time": one_at_a_time,
    "greedy": greedy,
}


MODEL_FREE = ("tpe", "nsga2", "random", "evolutionary")
"""The strategies that know no more of a unit than the bitmaps that they have tried."""


def too_few(name: str, max_evaluations: int | None, units: int) -> str:
    """Return a warning where a strategy that knows nothing of the units has fewer evaluations than there are units;
    otherwise an empty text.
    """
    if name not in MODEL_FREE or max_evaluations is None or max_evaluations >= units:
        return ""
    warm = ", or give it the option warm_start" if name in ("tpe", "nsga2") else ""
    return (
        f"few evaluations for so many sites: {name} learns of a unit by trying it, and {max_evaluations} evaluations "
        f"are fewer than {units} units; take guided{warm}, or raise max_evaluations"
    )


BY_ONE = ("guided", "evolutionary", "greedy", "one_at_a_time")
"""The strategies that choose by the first measured objective; the others weigh all objectives."""


def unguided(name: str, objectives: Sequence[str | Objective]) -> str:
    """Return a warning where a strategy does not choose by all measured objectives; otherwise an empty text."""
    measured = [objective for objective in parse_objectives(objectives) if not objective.is_cost]
    if name not in BY_ONE or len(measured) < 2:
        return ""
    others = " and ".join(map(str, measured[1:]))
    return (
        f"{name} chooses bitmaps by {measured[0]}: {others} {'is' if len(measured) == 2 else 'are'} measured and on "
        "the front, and chooses none; tpe and nsga2 weigh all objectives"
    )


def start(name: str, context: StrategyContext, options: Mapping[str, Any] | None = None) -> Strategy:
    """Return a fresh generator of the strategy of that name.

    Raises:
        BadInputError: There is no such strategy, it does not have an option, or a number breaks the option's law.
    """
    if name not in STRATEGIES:
        raise BadInputError(f"no strategy {name!r}; {nearest_hint(name, STRATEGIES)}")
    known = [option for option in inspect.signature(STRATEGIES[name]).parameters if option != "context"]
    for option in options or {}:
        if option not in known:
            raise BadInputError(f"strategy {name} has no option {option!r}; {nearest_hint(option, known)}")
    check_keywords(STRATEGIES[name], options or {}, f"strategy {name}:")
    return STRATEGIES[name](context, **(options or {}))


__all__ = ["STRATEGIES", "Row", "Strategy", "StrategyContext", "StrategyFunction", "start", "too_few", "unguided"]
