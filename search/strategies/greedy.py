"""Greedy mixed precision, a strategy of S2 (docs/systems.md), lowers the most tolerant layers first.

All units start at the most expensive choice. Units are visited by ascending sensitivity. A unit takes its next step
down if the metric is then no more than ``budget`` worse than at the start; otherwise the step is undone and the unit is
not visited again (with ``stop_on_fail`` the search ends).  After a step that was kept, the unit's next one joins the
queue with its own sensitivity.  S2 reads ``--budget 0.3`` as "30 % F1 drop": the budget is a share of the start's value
unless ``budget_kind`` is ``absolute``.

S2 orders by the error of a layer's output. Here the order comes from a one-at-a-time pass in the same search, on the
task's own metric; give the file of output errors as ``sensitivity`` to use S2's order. Under limits the start is
projected (docs/methods/search.md, "Strategies").
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from qalof.bitmap import LayerBits
from qalof.errors import BadInputError, nearest_hint
from qalof.laws import Count, Finite, Law, Width
from search.budget import Indices
from search.objective import Score
from search.space import BitmapSpace
from search.strategies.base import Strategy, StrategyContext
from search.strategies.sensitivity import (
    GENERATION_SIZE,
    Target,
    drop,
    measure,
    reference_of,
    replaced,
    targets_below,
)

GivenSensitivity = Mapping[str, Mapping[str, Finite] | Mapping[Width, Finite]] | str
"""The loss of quality by unit and layer bits, of which only the order counts; or the path of a file of output errors,
S2's ``sensitivity.json``, whose mean squared errors are used.  A block has the sum of its sites.
"""


@dataclass(frozen=True)
class _Allowance:
    budget: float
    kind: str

    def __post_init__(self) -> None:
        if self.kind not in ("relative", "absolute"):
            raise BadInputError(f"budget_kind must be 'relative' or 'absolute': got {self.kind!r}")

    def accepts(self, lost: float, start: float, reached: float) -> bool:
        if not math.isfinite(start):  # a start that failed is worse than anything that can be evaluated
            return math.isfinite(reached)
        return lost <= (self.budget * abs(start) if self.kind == "relative" else self.budget)


def greedy(
    context: StrategyContext,
    *,
    budget: Annotated[float, Law(ge=0, off="0 allows no drop")] = 0.3,
    budget_kind: Literal["relative", "absolute"] = "relative",
    stop_on_fail: bool = False,
    start: Width | str | LayerBits | None = None,
    sensitivity: GivenSensitivity | None = None,
    generation_size: Count = GENERATION_SIZE,
) -> Strategy:
    """Lower one unit after another within a budget of quality; the trace holds one row per trial step.

    Args:
        context: space, objectives and seed; the first measured objective is the metric.
        budget: the greatest drop of the metric against the start.
        budget_kind: ``relative``, a share of the start's value, or ``absolute``, in the metric's unit.
        stop_on_fail: whether the search ends at the first step that is not kept.
        start: the layer bits to start from; None takes the most expensive choice.
        sensitivity: the order of the visits, if known, or the path of a file that has it; otherwise it is measured.
        generation_size: the number of units in a generation of the measuring pass.

    Raises:
        BadInputError: An option cannot be used, or a given sensitivity lacks a unit or width of the space.
    """
    allowance, metric = _Allowance(budget, budget_kind), context.primary_metric().metric
    current = reference_of(context.space, start)
    targets = targets_below(context.space, current)
    size = generation_size
    if sensitivity is None:
        order = yield from measure(context, current, targets, size, trace=False)
    else:
        order = _given(context.space, targets, sensitivity)
    (origin,) = yield [context.space.bitmap(current)]
    queue = [_entry(order, step) for step in _next_steps(context.space, current, range(len(current)))]
    heapq.heapify(queue)
    while queue:
        _, target = heapq.heappop(queue)
        (score,) = yield [replaced(context.space, current, target)]
        lost = drop(metric, origin, score)
        accepted = allowance.accepts(lost, origin.evaluation[metric.name], score.evaluation[metric.name])
        accepted = accepted and score.violation <= origin.violation
        context.trace.append(_row(context, target, metric.name, lost, accepted, score))
        if accepted:
            current = (*current[: target[0]], target[1], *current[target[0] + 1 :])
            for step in _next_steps(context.space, current, [target[0]]):
                heapq.heappush(queue, _entry(order, step))
        elif stop_on_fail:
            return


def _next_steps(space: BitmapSpace, indices: Indices, units: range | list[int]) -> list[Target]:
    steps = [(unit, space.budget.lower(unit, indices[unit])) for unit in units]
    return [(unit, step) for unit, step in steps if step is not None]


def _entry(order: Mapping[Target, float], target: Target) -> tuple[float, Target]:
    # NaN means a collapse and would break the order of the queue, so it is visited last
    return (order[target] if order[target] == order[target] else math.inf), target


def _row(
    context: StrategyContext, target: Target, metric: str, lost: float, accepted: bool, score: Score
) -> dict[str, Any]:
    return {
        "step": len(context.trace) + 1,
        "layer": context.space.units[target[0]].name,
        "bits": context.space.label(*target),
        metric: score.evaluation[metric],
        "drop": lost,
        "average_bits": score.cost.average_bits,
        "weight_bytes": score.cost.weight_bytes,
        "accepted": accepted,
    }


def _given(space: BitmapSpace, targets: list[Target], sensitivity: GivenSensitivity) -> dict[Target, float]:
    from search.scores.output_error import read_errors  # where errors are measured too, so it takes torch

    names = [unit.name for unit in space.units]
    known = _by_unit(space, read_errors(sensitivity)) if isinstance(sensitivity, str) else sensitivity
    for name in known:
        if name not in names:
            raise BadInputError(f"sensitivity must name units of the space: got {name!r}; {nearest_hint(name, names)}")
    order = {}
    for unit, choice in targets:
        values = known.get(names[unit], {})
        told = next((value for bits, value in values.items() if _is_choice(space, unit, choice, bits)), None)
        if told is None:
            label, has = space.label(unit, choice), sorted(map(str, values))
            raise BadInputError(f"sensitivity must have a number for {names[unit]} at {label}: it has {has}")
        order[(unit, choice)] = float(told)
    return order


def _is_choice(space: BitmapSpace, unit: int, choice: int, bits: int | str) -> bool:
    """Return whether ``bits`` names a unit's choice; a KV width does not matter where no site of it fills the cache."""
    try:
        return space.find(unit, LayerBits.parse(bits)) == choice
    except BadInputError:
        return False


def _by_unit(space: BitmapSpace, errors: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return errors of sites as those of the space's units: squared errors of the sites of a block add up.

    Raises:
        BadInputError: The space does not have a site, so the file belongs to another model.
    """
    sites = [site.name for site in space.sites]
    for name in errors:
        if name not in sites:
            raise BadInputError(f"sensitivity must name sites of the model: got {name!r}; {nearest_hint(name, sites)}")
    found: dict[str, dict[str, float]] = {}
    for unit in space.units:
        for name in (space.sites[member].name for member in unit.members):
            for bits, error in errors.get(name, {}).items():
                mine = found.setdefault(unit.name, {})
                mine[bits] = mine.get(bits, 0.0) + error
    return found
