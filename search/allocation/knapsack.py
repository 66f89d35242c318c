"""The multiple-choice knapsack: one choice per unit, least total damage, every limit kept.

    minimize  sum_u damage[u][pick_u]   subject to   sum_u price[l][u][pick_u] <= limit[l]  for every limit l

(docs/methods/guided_search.md).  :func:`exact` solves it by branch and cut (HiGHS through :func:`scipy.optimize.milp`),
under any number of limits. :func:`lagrangian` takes one limit and is about a hundred times faster: it charges the price
to the damage at a rate, bisects the rate, and spends what is left on single steps.  Its damage is within a fraction of
a percent of the least, and the tests compare the two.

A damage of infinity forbids a choice. Only differences within a unit count, so damages may be negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from qalof.errors import BadInputError

Rows = Sequence[Sequence[float]]
"""One number per choice, per unit; units may have different numbers of choices."""
Picks = tuple[int, ...]

SLACK = 1e-9
"""The share of a limit by which a sum of floating-point prices may exceed it."""
_OPTIMAL, _INFEASIBLE = 0, 2


def total(rows: Rows, picks: Sequence[int]) -> float:
    """Return the sum of what is picked."""
    return math.fsum(row[pick] for row, pick in zip(rows, picks, strict=True))


def exact(damages: Rows, prices: Sequence[Rows], limits: Sequence[float]) -> Picks:
    """Return the picks of the least damage within all limits.

    Args:
        damages: one row per unit; infinity forbids a choice.
        prices: for every limit, one row per unit.
        limits: the greatest allowed sum of each price.

    Raises:
        BadInputError: A unit has no allowed choice, or no picks keep all limits.
    """
    _check(damages, prices, limits)
    sizes = [len(row) for row in damages]
    flat = np.array([value for row in damages for value in row], dtype=np.float64)
    allowed = np.isfinite(flat)
    cost = np.where(allowed, flat, 0.0)
    # HiGHS has absolute tolerances, so damages of 1e-9 would all count as equal
    scale = float(np.ptp(cost)) or 1.0
    unit_of = np.repeat(np.arange(len(sizes)), sizes)
    one_each = coo_array((np.ones(len(flat)), (unit_of, np.arange(len(flat)))), shape=(len(sizes), len(flat)))
    constraints = [LinearConstraint(one_each.tocsr(), 1.0, 1.0)]
    for rows, limit in zip(prices, limits, strict=True):
        price = np.array([value for row in rows for value in row], dtype=np.float64)
        size = float(np.abs(price).max()) or 1.0
        constraints.append(LinearConstraint(price[None, :] / size, -np.inf, limit / size))
    found = milp(
        cost * (1e3 / scale),
        integrality=np.ones(len(flat)),
        bounds=Bounds(0.0, allowed.astype(np.float64)),
        constraints=constraints,
        options={"mip_rel_gap": 1e-6},
    )
    if found.status == _INFEASIBLE:
        raise BadInputError(_infeasible(damages, prices, limits))
    if found.status != _OPTIMAL:
        raise RuntimeError(f"the knapsack was not solved: {found.message}")
    starts = np.cumsum([0, *sizes[:-1]])
    picks = tuple(int(np.argmax(found.x[start : start + size])) for start, size in zip(starts, sizes, strict=True))
    return _kept(damages, prices, limits, picks)


def lagrangian(damages: Rows, prices: Rows, limit: float) -> Picks:
    """Return picks of nearly the least damage within one limit, in well under a millisecond per hundred units.

    Args:
        damages: one row per unit; infinity forbids a choice.
        prices: one row per unit.
        limit: the greatest allowed sum of prices.

    Raises:
        BadInputError: as :func:`exact`.
    """
    _check(damages, [prices], [limit])
    damage, price = _padded(damages, np.inf), _padded(prices, 0.0)
    price = np.where(np.isfinite(damage), price, np.inf)
    most = limit + SLACK * abs(limit)
    picks = _at_rate(damage, price, 0.0)
    if _sum(price, picks) > most:
        low, high = 0.0, 1.0
        while _sum(price, picks := _at_rate(damage, price, high)) > most:
            low, high = high, high * 4.0
            if high > 1e30:  # even the cheapest choices are too many
                picks = np.argmin(price, axis=1)
                break
        for _ in range(60):
            middle = (low + high) / 2
            tried = _at_rate(damage, price, middle)
            low, high, picks = (low, middle, tried) if _sum(price, tried) <= most else (middle, high, picks)
    if _sum(price, picks) > most:
        raise BadInputError(_infeasible(damages, [prices], [limit]))
    return tuple(int(pick) for pick in _filled(damage, price, picks, most))


def _at_rate(damage: NDArray[np.float64], price: NDArray[np.float64], rate: float) -> NDArray[np.intp]:
    charged = damage + rate * np.where(np.isfinite(price), price, 0.0)
    # of equal ones the cheaper, so that the budget is not spent on nothing
    least = charged.min(axis=1, keepdims=True)
    cheapest: NDArray[np.intp] = np.argmin(np.where(charged <= least, price, np.inf), axis=1)
    return cheapest


def _sum(price: NDArray[np.float64], picks: NDArray[np.intp]) -> float:
    return float(price[np.arange(len(picks)), picks].sum())


def _filled(
    damage: NDArray[np.float64], price: NDArray[np.float64], picks: NDArray[np.intp], most: float
) -> NDArray[np.intp]:
    """Take the single steps that repair the most damage per price, as long as one fits."""
    units = np.arange(len(picks))
    while True:
        gain = damage[units, picks][:, None] - damage
        extra = price - price[units, picks][:, None]
        fits = (gain > 0) & (extra <= most - _sum(price, picks))
        if not fits.any():
            return picks
        worth = np.where(fits, gain / np.maximum(extra, 1e-300), -np.inf)
        unit, choice = np.unravel_index(int(np.argmax(worth)), worth.shape)
        picks = picks.copy()
        picks[unit] = choice


def _padded(rows: Rows, filler: float) -> NDArray[np.float64]:
    table = np.full((len(rows), max(map(len, rows))), filler)
    for at, row in enumerate(rows):
        table[at, : len(row)] = row
    return table


def _check(damages: Rows, prices: Sequence[Rows], limits: Sequence[float]) -> None:
    if len(prices) != len(limits):
        raise ValueError(f"each limit must have its prices: got {len(prices)} for {len(limits)}")
    for rows in prices:
        if [len(row) for row in rows] != [len(row) for row in damages]:
            raise ValueError("prices must be given for the same units and choices as damages")
    for unit, row in enumerate(damages):
        if not any(math.isfinite(value) for value in row) or any(math.isnan(value) for value in row):
            raise BadInputError(
                f"a unit must have a choice whose damage is a number, and none that is NaN: unit {unit} has {list(row)}"
            )


def _infeasible(damages: Rows, prices: Sequence[Rows], limits: Sequence[float]) -> str:
    least = [
        math.fsum(
            min(p for p, d in zip(row, damage, strict=True) if math.isfinite(d))
            for row, damage in zip(rows, damages, strict=True)
        )
        for rows in prices
    ]
    said = "; ".join(
        f"at least {low:.10g} for a limit of {limit:.10g}" for low, limit in zip(least, limits, strict=True)
    )
    return f"some choice of every unit must keep the limits together: the cheapest take {said}; raise a limit"


def _kept(damages: Rows, prices: Sequence[Rows], limits: Sequence[float], picks: Picks) -> Picks:
    """Check the solver's picks against the limits themselves, whose tolerance is finer than the solver's."""
    if _broken(prices, limits, picks):
        return _lowered(damages, prices, limits, picks)
    return picks


def _lowered(damages: Rows, prices: Sequence[Rows], limits: Sequence[float], picks: Picks) -> Picks:
    """Step down where it costs the least damage until every limit holds exactly."""
    now = list(picks)
    while broken := _broken(prices, limits, now):
        rows = prices[broken[0]]
        steps = [
            ((damages[u][c] - damages[u][now[u]]) / (rows[u][now[u]] - rows[u][c]), u, c)
            for u in range(len(now))
            for c in range(len(rows[u]))
            if rows[u][c] < rows[u][now[u]] and math.isfinite(damages[u][c])
        ]
        if not steps:
            raise BadInputError(_infeasible(damages, prices, limits))
        _, unit, choice = min(steps)
        now[unit] = choice
    return tuple(now)


def _broken(prices: Sequence[Rows], limits: Sequence[float], picks: Sequence[int]) -> list[int]:
    """Return the positions of the limits that picks exceed."""
    pairs = enumerate(zip(prices, limits, strict=True))
    return [index for index, (rows, limit) in pairs if total(rows, picks) > limit + SLACK * abs(limit)]
