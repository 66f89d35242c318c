"""A budget is a set of limits on costs, with the steps down that bring a choice within them.

Plain numbers: ``prices[unit][choice]`` is what a choice adds to each cost, in the order of ``names``, followed by its
widths.  ``average_bits`` is a mean and does not add up over units; its numerator, bits times weights, does, so the
numerator is stored instead and the sum is divided by the number of weights. The widths are stored because a step down
must not raise any of them: w4a4 and w2a8 cost the same bit operations.

``latency_seconds`` is measured, so a step down may be slower: a lower width may have no kernel. Under a limit on it the
walk below has no sure end, and the choices that keep every limit and are the fewest steps away are found by the
knapsack instead.

``total_bytes`` counts only where it is limited: it adds adapters and everything that is never quantized to the weights.
A lower width may have a larger adapter, and then a step down may raise the total; if the total is limited, the first
choice of a unit must be its least in it as well.

The walk down visits all units again and again, with one step per visit, in an order drawn from a digest of the indices:
the same choice always leads to the same result, and the reductions are not concentrated at one end of the model. Taking
the most expensive unit first was rejected, since it reduces exactly the units that a strategy chose to keep.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

from qalof.cost import COST_NAMES
from qalof.errors import BadInputError, nearest_hint
from qalof.latency import LATENCY, seconds
from qalof.site_cost import why_unknown
from search.allocation.knapsack import exact

Price = tuple[float, ...]
Indices = tuple[int, ...]
"""A tuple with one choice index per unit."""

TOTAL = "total_bytes"
BASE_NAMES = tuple(name for name in COST_NAMES if name not in ("adapter_bytes", TOTAL, LATENCY))
"""The costs that are known from sites alone."""


def priced(total: bool, timed: bool) -> tuple[str, ...]:
    """Return the costs in the first columns of a price, with or without the total and measured latency."""
    return (*BASE_NAMES, *[TOTAL] * total, *[LATENCY] * timed)


def check_limit(name: str) -> str:
    """Return ``name`` if it is a cost that can be limited.

    Raises:
        BadInputError: There is no cost of that name, or it is that of adapters alone.
    """
    if name not in COST_NAMES:
        raise BadInputError(f"a limit must name a cost: got {name!r}; {nearest_hint(name, COST_NAMES)}")
    if name not in (*BASE_NAMES, TOTAL, LATENCY):
        raise BadInputError(f"adapters are limited together with the model: got a limit on {name}; take {TOTAL}")
    return name


@dataclass(frozen=True)
class Budget:
    """Prices of all choices and the limits on their sums.

    Attributes:
        prices: the prices by unit and choice; the first choice of a unit is the least in every column that counts.
        weights: the number of weights over all units.
        limits: cost name -> greatest allowed value.
        constant: the bytes in ``total_bytes`` that no choice changes; None where prices have no such column.
        timed: whether prices have a column of latencies, in nanoseconds.

    Raises:
        BadInputError: A cost or its prices are not known, a first choice is not the least, or no choices keep all
            limits.
    """

    prices: tuple[tuple[Price, ...], ...]
    weights: int
    limits: Mapping[str, float]
    constant: float | None = None
    timed: bool = False

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            low, high = self.reachable(name)
            if not math.isfinite(limit) or limit < low:
                raise BadInputError(
                    f"the limit on {name} must be within reach: got {limit:.10g}, "
                    f"and this space goes from {low:.10g} to {high:.10g}; raise the limit or add lower widths"
                )
        if LATENCY in self.limits and len(self.limits) > 1:
            # a cheap choice may be slow, so limits that can be kept one by one may not be kept together
            self._nearest([0] * len(self.prices))

    @property
    def names(self) -> tuple[str, ...]:
        """The costs in the first columns of a price."""
        return priced(self.constant is not None, self.timed)

    def column(self, name: str) -> int:
        """Return the column of a cost in a price.

        Raises:
            BadInputError: The cost cannot be limited, or it is not known from sites alone.
        """
        if check_limit(name) not in self.names:
            if name == LATENCY:
                raise BadInputError(why_unknown(name))
            raise BadInputError(
                f"{name} counts what a model holds alongside its sites: this space is made of sites alone; "
                "make it with BitmapSpace.of(model)"
            )
        return self.names.index(name)

    def watched(self, unit: int, *unless: str) -> list[int]:
        """Return the columns that a step down of ``unit`` must not raise: all, except a total and a latency that are
        not limited, and the costs ``unless``.
        """
        free = {name for name in (TOTAL, LATENCY) if name not in self.limits} | set(unless)
        hidden = {column for column, name in enumerate(self.names) if name in free}
        return [column for column in range(len(self.prices[unit][0])) if column not in hidden]

    def reachable(self, name: str) -> tuple[float, float]:
        """Return the least and the greatest value of a cost, without regard to limits.

        Raises:
            BadInputError: See :meth:`column`.
        """
        column = self.column(name)
        ends = [(min(p[column] for p in prices), max(p[column] for p in prices)) for prices in self.prices]
        return self._whole(name, sum(low for low, _ in ends)), self._whole(name, sum(high for _, high in ends))

    def exceeded(self, indices: Sequence[int]) -> list[str]:
        """Return the limits that these choices break."""
        chosen = [prices[index] for prices, index in zip(self.prices, indices, strict=True)]
        totals = {name: self._whole(name, sum(price[self.column(name)] for price in chosen)) for name in self.limits}
        return [name for name, limit in self.limits.items() if totals[name] > limit]

    def lower(self, unit: int, index: int, saving: Sequence[str] = BASE_NAMES) -> int | None:
        """Return the next choice down, higher in no watched column and cheaper in one of ``saving``; None at the
        bottom.
        """
        prices, watched = self.prices[unit], self.watched(unit)
        columns = [self.column(name) for name in saving]
        for candidate in reversed(range(index)):
            no_higher = all(prices[candidate][column] <= prices[index][column] for column in watched)
            if no_higher and any(prices[candidate][column] < prices[index][column] for column in columns):
                return candidate
        return None

    def lowered(self, indices: Sequence[int]) -> Indices:
        """Return these choices, stepped down until every limit holds; unchanged if all hold already."""
        if LATENCY in self.limits:
            return self._nearest(indices) if self.exceeded(indices) else tuple(indices)
        lowered = list(indices)
        walk = cycle(_order(tuple(indices)))
        # the loop ends: each round takes a step where there is one, and the first choices keep every limit
        while exceeded := self.exceeded(lowered):
            unit = next(walk)
            step = self.lower(unit, lowered[unit], exceeded)
            lowered[unit] = lowered[unit] if step is None else step
        return tuple(lowered)

    def allowance(self, name: str, limit: float) -> int:
        """Return the greatest sum of a cost's prices of choices whose cost is within ``limit``, exactly.

        Raises:
            BadInputError: See :meth:`column`; or the limit is not finite.
        """
        self.column(name)
        if not math.isfinite(limit):
            raise BadInputError(f"a limit on {name} must be a finite number: got {limit}")
        if name not in ("average_bits", LATENCY):
            return math.floor(limit) - int(self.constant or 0) * (name == TOTAL)
        most = math.floor(limit * (self.weights if name == "average_bits" else 10**9))
        # the product is rounded, and so is the quotient that a cost is: the one next to it may be the last within
        return max(total for total in (most - 1, most, most + 1) if self._whole(name, total) <= limit)

    def _nearest(self, indices: Sequence[int]) -> Indices:
        """Return the choices within all limits that are the fewest steps away, each unit's steps weighed at random."""
        order = _order(tuple(indices))
        weights = [1 + order.index(unit) / len(order) for unit in range(len(order))]
        steps = [
            [weight * abs(choice - index) for choice in range(len(prices))]
            for prices, index, weight in zip(self.prices, indices, weights, strict=True)
        ]
        columns = [self.column(name) for name in self.limits]
        rows = [[[price[column] for price in prices] for prices in self.prices] for column in columns]
        return exact(steps, rows, [float(self.allowance(name, limit)) for name, limit in self.limits.items()])

    def _whole(self, name: str, total: float) -> float:
        """Return the cost of a model whose units add up to ``total``."""
        if name == "average_bits":
            return total / self.weights
        if name == LATENCY:
            return seconds(int(total))
        return total + (self.constant or 0) if name == TOTAL else total


def _order(indices: Indices) -> list[int]:
    return sorted(range(len(indices)), key=lambda unit: hashlib.sha256(f"{indices}:{unit}".encode()).digest())
