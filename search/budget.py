"""Holding a budget: limits on costs, and the steps down that bring a choice within them.

Plain numbers: ``prices[unit][choice]`` is what a choice adds to each cost, in the order of COST_NAMES, followed
by its widths.  ``average_bits`` is a mean and does not add up over units; its numerator, bits times weights,
does, so that stands in its place and the sum is divided by the number of weights.  The widths are there
because a step down must raise none: w4a4 and w2a8 cost the same bit operations.

The walk down visits the units round and round, one step each, in an order drawn from a digest of the
indices: the same choice always falls to the same place, and neither end of the model pays for all.  Taking the
dearest unit first was rejected, since it undoes just what a strategy singled out to keep.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

from qalof.cost import COST_NAMES
from qalof.errors import BadInputError, nearest_hint

Price = tuple[float, ...]
Indices = tuple[int, ...]
"""One choice index a unit."""


def cost_index(name: str) -> int:
    """Where a cost stands in COST_NAMES.

    Raises:
        BadInputError: no cost of that name.
    """
    if name not in COST_NAMES:
        raise BadInputError(f"a limit must name a cost: got {name!r}; {nearest_hint(name, COST_NAMES)}")
    return COST_NAMES.index(name)


@dataclass(frozen=True)
class Budget:
    """Prices of all choices and the limits on their sums.

    Attributes:
        prices: by unit and choice; each unit's first choice is the least in every column.
        weights: number of weights over all units.
        limits: cost name -> greatest allowed value.

    Raises:
        BadInputError: an unknown cost, or a limit that not even the first choices keep.
    """

    prices: tuple[tuple[Price, ...], ...]
    weights: int
    limits: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            low, high = self.reachable(name)
            if not math.isfinite(limit) or limit < low:
                raise BadInputError(
                    f"the limit on {name} must be within reach: got {limit:.10g}, "
                    f"and this space goes from {low:.10g} to {high:.10g}; raise the limit or add lower widths"
                )

    def reachable(self, name: str) -> tuple[float, float]:
        """Least and greatest value of a cost, limits aside.

        Raises:
            BadInputError: no cost of that name.
        """
        column = cost_index(name)
        ends = [(min(p[column] for p in prices), max(p[column] for p in prices)) for prices in self.prices]
        scale = self.weights if name == "average_bits" else 1
        return sum(low for low, _ in ends) / scale, sum(high for _, high in ends) / scale

    def exceeded(self, indices: Sequence[int]) -> list[str]:
        """The limits that these choices break."""
        chosen = [prices[index] for prices, index in zip(self.prices, indices, strict=True)]
        totals = {name: sum(price[column] for price in chosen) for column, name in enumerate(COST_NAMES)}
        totals["average_bits"] /= self.weights
        return [name for name, limit in self.limits.items() if totals[name] > limit]

    def lower(self, unit: int, index: int, saving: Sequence[str] = COST_NAMES) -> int | None:
        """The next choice down: higher in no column and cheaper in one of ``saving``; None at the bottom."""
        prices = self.prices[unit]
        columns = [cost_index(name) for name in saving]
        for candidate in reversed(range(index)):
            no_dearer = all(new <= old for new, old in zip(prices[candidate], prices[index], strict=True))
            if no_dearer and any(prices[candidate][column] < prices[index][column] for column in columns):
                return candidate
        return None

    def lowered(self, indices: Sequence[int]) -> Indices:
        """These choices, stepped down until every limit holds; as they are if it does already."""
        lowered = list(indices)
        walk = cycle(_order(tuple(indices)))
        # it ends: each round takes a step wherever there is one, and the first choices keep every limit
        while exceeded := self.exceeded(lowered):
            unit = next(walk)
            step = self.lower(unit, lowered[unit], exceeded)
            lowered[unit] = lowered[unit] if step is None else step
        return tuple(lowered)


def _order(indices: Indices) -> list[int]:
    return sorted(range(len(indices)), key=lambda unit: hashlib.sha256(f"{indices}:{unit}".encode()).digest())
