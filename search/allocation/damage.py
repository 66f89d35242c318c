"""The predicted damage of every choice of every unit of a space, and the bitmap of the least damage within limits.

The damage of a choice is the sum, over the sites of its unit, of what the table of scores says of the weight's width,
of the input's and of the cache's.  Scores of roles that the space does not vary add the same to each choice, so a table
may leave them out (docs/methods/guided_search.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.layer_bits import FULL_PRECISION, LayerBits
from qalof.site import Site
from search.allocation.knapsack import Picks, exact, lagrangian
from search.scores.table import FULL, ScoreTable
from search.space import BitmapSpace

Damages = tuple[tuple[float, ...], ...]
"""The damages by unit and choice."""


def widths_of(site: Site, bits: LayerBits) -> Iterator[tuple[str, str]]:
    """Yield role and width, as tables of scores name them, of everything that a choice rounds at a site.

    Where a site makes keys alone, or values alone, the width of the cache is theirs: ``8`` of ``k8v4`` at ``k_proj``.
    """
    if str(bits.weight_width) != FULL:
        yield "weight", str(bits.weight_width)
    if bits.activation != FULL_PRECISION and not site.is_embedding:
        yield "activation", str(bits.activation)
    cache = set(site.kv_widths(bits.kv))
    if cache - {FULL_PRECISION}:
        yield "kv", str(bits.kv if len(cache) > 1 else cache.pop())


def roles_of(space: BitmapSpace) -> dict[str, tuple[str, ...]]:
    """Return role -> the widths that the space chooses from, for the roles that it varies at some unit."""
    varied: set[str] = set()
    found: dict[str, dict[str, None]] = {}
    for unit in space.units:
        for member in unit.members:
            site = space.sites[member]
            rows = [dict(widths_of(site, bits)) for bits in space.choices[member]]
            for role in {role for row in rows for role in row}:
                widths = [row.get(role, FULL) for row in rows]
                found.setdefault(role, {}).update(dict.fromkeys(w for w in widths if w != FULL))
                if len(set(widths)) > 1:
                    varied.add(role)
    return {role: tuple(widths) for role, widths in found.items() if role in varied}


def damages_of(space: BitmapSpace, table: ScoreTable) -> Damages:
    """Return the predicted damage by unit and choice.

    Raises:
        BadInputError: The table lacks a site or a width that the space varies.
    """
    roles = roles_of(space)

    def damage(member: int, bits: LayerBits) -> float:
        site = space.sites[member]
        return sum(table.damage(role, site.name, width) for role, width in widths_of(site, bits) if role in roles)

    return tuple(
        tuple(sum(damage(member, space.choices[member][pick]) for member in unit.members)
              for pick in range(unit.choices))
        for unit in space.units
    )  # fmt: skip


def allocated(
    space: BitmapSpace, damages: Sequence[Sequence[float]], changes: tuple[Sequence[int], int] | None = None
) -> Picks:
    """Return the picks of the least damage within the limits of a space.

    Args:
        space: the space.
        damages: by unit and choice; infinity forbids a choice.
        changes: picks, and how many units may differ from them at most; None lets all differ.

    Raises:
        BadInputError: No bitmap keeps all limits.
    """
    prices = [space.costs(name) for name in space.limits]
    allowances = [float(space.allowance(name, limit)) for name, limit in space.limits.items()]
    if changes is not None:
        now, most = changes
        differs = ((int(pick != at) for pick in range(len(row))) for at, row in zip(now, damages, strict=True))
        prices.append(tuple(map(tuple, differs)))
        allowances.append(float(most))
    return exact(damages, prices, allowances)


def allocated_fast(space: BitmapSpace, damages: Sequence[Sequence[float]]) -> Picks:
    """Return picks of nearly the least damage within the limits of a space, a hundred times faster.

    Under several limits the knapsack of one of them is taken that keeps the others too, or is lowered until it does.

    Raises:
        BadInputError: as :func:`allocated`.
    """
    picks: Picks = tuple(min(range(len(row)), key=row.__getitem__) for row in damages)
    for name, limit in space.limits.items():
        picks = lagrangian(damages, space.costs(name), float(space.allowance(name, limit)))
        if not space.budget.exceeded(picks):
            break
    return space.budget.lowered(picks)


def spread_front(space: BitmapSpace, damages: Sequence[Sequence[float]], count: int = 6) -> list[Bitmap]:
    """Return the bitmaps of the least damage at ``count`` values of average bits that are spread over the space, and at
    its own limits, from cheap to expensive and each once.

    Args:
        space: the space, whose limits all of them keep.
        damages: by unit and choice.
        count: how many values.
    """
    low, high = space.reachable("average_bits")
    values = [low + (high - low) * (index + 1) / (count + 1) for index in range(count)]
    plans = [space.within({"average_bits": value}) for value in values] + ([space] if space.limits else [])
    found = dict.fromkeys(space.bitmap(allocated(plan, damages)) for plan in plans)
    return sorted(found, key=lambda bitmap: space.cost(bitmap).average_bits)


def allocate(space: BitmapSpace, table: ScoreTable, limits: Mapping[str, float] | None = None) -> Bitmap:
    """Return the bitmap that a table of scores predicts to be best within limits, without running any model.

    Args:
        space: the space, whose own limits hold too.
        table: scores of the space's model (:func:`search.scores.compute`).
        limits: cost name -> greatest allowed value, such as ``{"average_bits": 4.5}``.

    Raises:
        BadInputError: No bitmap keeps all limits, no limit is given, or the table lacks a site or a width.
    """
    inner = space.within(limits)
    if not inner.limits:
        raise BadInputError(
            "an allocation needs a limit, such as average_bits=4.5: without one every unit takes its best"
        )
    return inner.bitmap(allocated(inner, damages_of(inner, table)))
