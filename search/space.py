"""The bitmaps that a search may choose from, and the budget that none of them exceeds.

A space has *units*: sites that are chosen together, each with a *menu* of choices (:class:`qalof.layer_bits.LayerBits`,
from cheap to expensive), of which one index picks one.  A limit bounds a cost of :mod:`qalof.cost` from above.  It is
kept by construction: :meth:`BitmapSpace.project` lowers choices until every limit holds, so no bitmap above the budget
is ever evaluated. Penalties and constraint callbacks were rejected, since they only discourage such bitmaps and spend
evaluations on them. This requires that the first choice of a unit is its cheapest in every cost: then one bitmap is the
cheapest of the space, every limit above its costs can be met, and the limits can be met together.

What a strategy or a knapsack needs of it, in plain numbers:

    space.units                     tuple of Unit: name, sites (their names), menu (tuple of LayerBits)
    space.bitmap(picks)             the bitmap of one index per unit; space.encode(bitmap) gives the indices back
    space.costs(name)               by unit and choice, whole numbers that add up over units to the cost of a bitmap
    space.allowance(name, limit)    the greatest sum of these within a limit: sum <= allowance is exactly cost <= limit
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from qalof.bitmap import Bitmap, LayerBits
from qalof.cost import Cost, Rest, SiteCost, cost_of, site_cost
from qalof.errors import BadInputError
from qalof.latency import LATENCY, LatencyTable
from qalof.site import Site
from search.budget import TOTAL, Budget, Indices, Price, check_limit, priced
from search.grouping import Group, Grouping, Unit
from search.menu import CacheWidths, Menu, WeightWidths, choices_of, menus_by_site

_log = logging.getLogger(__name__)


class HasSites(Protocol):
    """A model, as far as a space needs it."""

    @property
    def sites(self) -> Sequence[Site]:
        """The quantizable layers, in order."""
        ...


@dataclass(frozen=True)
class BitmapSpace:
    """Every bitmap that takes, at each unit, one of its choices, and costs no more than the limits.

    Attributes:
        sites: the sites of the model, in order.
        choices: the choices by site, from cheap to expensive; sites of one unit have equally many.
        limits: cost name -> greatest allowed value: ``weight_bytes`` bounds the sites' packed weights, ``total_bytes``
            all tensors of the packed model, its adapters included.
        grouping: which sites are chosen together.
        rest: what the model holds alongside its sites; None where only sites are known, without ``total_bytes``.
        latency: measured latencies (:mod:`qalof.latency`); None has no ``latency_seconds``.

    Raises:
        BadInputError: The choices do not fit the sites, a limit is unknown, the latency of a choice is not known, or no
            bitmap of the space keeps the limits.
    """

    sites: tuple[Site, ...]
    choices: tuple[tuple[LayerBits, ...], ...]
    limits: Mapping[str, float] = field(default_factory=dict)
    grouping: Grouping = field(default_factory=Grouping)
    rest: Rest | None = field(default=None, repr=False)
    latency: LatencyTable | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.sites or len(self.choices) != len(self.sites) or not all(self.choices):
            raise BadInputError(
                "a space must list choices for each of its sites: "
                f"got {len(self.choices)} lists for {len(self.sites)} sites"
            )
        for unit in self.units:
            if len({len(self.choices[member]) for member in unit.members}) > 1:
                raise BadInputError(f"sites of a unit must have equally many choices: those of {unit.name} do not")
        self.budget  # noqa: B018 - built now, so a limit out of reach is refused now
        if self._scales_are_free():
            _log.warning(
                "average_bits counts codes and no scales, so every group size is free under it: "
                "limit weight_bytes too, which counts both"
            )

    @classmethod
    def of(
        cls,
        model: HasSites | Sequence[Site],
        weight: WeightWidths | None = None,
        activation: Sequence[int] | Literal["same"] = "same",
        kv: CacheWidths | Literal["same"] | None = "same",
        *,
        limits: Mapping[str, float] | None = None,
        group: Group = "site",
        tied: Sequence[str] = (),
        menus: Mapping[str, Menu | Mapping[str, Any]] | None = None,
        fixed: Mapping[str, int | str | LayerBits] | None = None,
        latency: LatencyTable | str | Path | None = None,
    ) -> BitmapSpace:
        """Make the space of all combinations of widths at every unit.

        Args:
            model: a model, or its sites.
            weight: the widths of a weight, ``4`` or, in groups of 32, ``"4g32"``; None takes those that have an
                adapter, or 3 to 8 without such adapters.  The log mentions a width without an adapter of its own.
            activation: the widths of its input; ``same`` takes the weight's.
            kv: the widths of the cache where a site fills it, ``8`` or, with keys at 8 and values at 4, ``"k8v4"``;
                ``same`` takes the weight's, and None leaves the cache as it is.
            limits: cost name -> greatest allowed value.
            group: which sites are chosen together (:mod:`search.grouping`).
            tied: patterns of site names, each of which ties all sites that match it to one choice.
            menus: pattern of site names -> a menu of their own (:class:`search.menu.Menu`), or settings of it.
            fixed: pattern of site names -> the layer bits that these sites keep.
            latency: measured latencies of this model, or their file, for the cost ``latency_seconds``.

        Raises:
            BadInputError: There are no widths, a width or a pattern does not exist, sites of a unit have different
                menus, a limit is out of reach, or the latencies are another model's.
        """
        sites = tuple(model if isinstance(model, Sequence) else model.sites)
        grouping = Grouping(group, tuple(tied))
        default = Menu.of(model, sites, weight, activation, kv)
        choices = choices_of(model, sites, grouping, menus_by_site(sites, default, menus or {}, fixed or {}))
        rest = None if isinstance(model, Sequence) else getattr(model, "rest", None)
        table = latency if isinstance(latency, LatencyTable | None) else LatencyTable.load(latency)
        if table is not None:
            table.check_for(sites)
        return cls(sites, choices, dict(limits or {}), grouping, rest, table)

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The units that are chosen, in the model's order."""
        names = [site.name for site in self.sites]
        found = []
        for name, members in self.grouping.units(names):
            shown = next((member for member in members if self.sites[member].kv_features), members[0])
            found.append(Unit(name, tuple(names[member] for member in members), members, self.choices[shown]))
        return tuple(found)

    @property
    def size(self) -> int:
        """The number of index vectors, without regard to limits."""
        return math.prod(unit.choices for unit in self.units)

    def bitmap(self, picks: Sequence[int]) -> Bitmap:
        """Return the bitmap of these picks, one index into its menu per unit, in order; :meth:`project` it where it may
        exceed the limits.
        """
        chosen = {member: pick for unit, pick in zip(self.units, picks, strict=True) for member in unit.members}
        return Bitmap({site.name: self.choices[i][chosen[i]] for i, site in enumerate(self.sites)})

    def encode(self, bitmap: Bitmap) -> Indices:
        """Invert :meth:`bitmap`; KV widths are ignored where a site feeds no cache, and activations at a look-up.

        Raises:
            BadInputError: A unit of the bitmap has none of the space's choices.
        """
        layers = Bitmap.from_json(bitmap.to_json(), [site.name for site in self.sites])
        names = [[self.sites[member].name for member in unit.members] for unit in self.units]
        return tuple(self.find(unit, [layers[name] for name in members]) for unit, members in enumerate(names))

    def find(self, unit: int, layers: LayerBits | Sequence[LayerBits]) -> int:
        """Return the index of the choice that gives ``unit`` these layer bits: one for all its sites, or one per site.

        Raises:
            BadInputError: The unit has no such choice.
        """
        members = self.units[unit].members
        wanted = [layers] * len(members) if isinstance(layers, LayerBits) else layers
        for index in range(self.units[unit].choices):
            if all(self._same(m, self.choices[m][index], bits) for m, bits in zip(members, wanted, strict=True)):
                return index
        known = ", ".join(self.label(unit, index) for index in range(self.units[unit].choices))
        raise BadInputError(f"{self.units[unit].name} must have one of the space's choices ({known}): got {wanted[0]}")

    def label(self, unit: int, index: int) -> str:
        """Return the text of a choice of a unit: its layer bits at the member that fills the cache, if any does."""
        return str(self.units[unit].menu[index])

    def uniform(self) -> tuple[Bitmap, ...]:
        """Return the bitmaps within the limits with the same layer bits at every site, from cheap to expensive."""
        found = []
        for layer in sorted({bits for choices in self.choices for bits in choices}):
            try:
                bitmap = self.bitmap([self.find(unit, layer) for unit in range(len(self.units))])
            except BadInputError:
                continue
            if self.fits(bitmap) and bitmap not in found:
                found.append(bitmap)
        return tuple(sorted(found, key=lambda bitmap: (self.cost(bitmap).average_bits, self.cost(bitmap).weight_bytes)))

    def cost(self, bitmap: Bitmap) -> Cost:
        """Return the cost of a bitmap of this model."""
        return cost_of(bitmap, self.sites, rest=self.rest, latency=self.latency)

    def fits(self, bitmap: Bitmap) -> bool:
        """Return whether every limit holds."""
        cost = self.cost(bitmap)
        return all(cost.value(name) <= limit for name, limit in self.limits.items())

    def within(self, limits: Mapping[str, float] | None) -> BitmapSpace:
        """Return this space with limits added; of two limits for the same cost the lower one applies."""
        merged = dict(self.limits)
        for name, limit in (limits or {}).items():
            merged[name] = min(limit, merged.get(name, limit))
        return replace(self, limits=merged)

    def reachable(self, name: str) -> tuple[float, float]:
        """Return the least and the greatest value of a cost over the space, without regard to limits.

        Raises:
            BadInputError: There is no cost of that name.
        """
        return self.budget.reachable(name)

    def project(self, bitmap: Bitmap) -> Bitmap:
        """Lower widths, deterministically, until every limit holds; a bitmap within the limits is kept.

        Raises:
            BadInputError: The bitmap is not of this space.
        """
        return self.bitmap(self.budget.lowered(self.encode(bitmap)))

    @cached_property
    def budget(self) -> Budget:
        """The prices and limits, for code that steps along the choices."""
        for name in self.limits:
            check_limit(name)
        units = enumerate(self.units)
        prices = tuple(tuple(self._price(index, pick) for pick in range(unit.choices)) for index, unit in units)
        constant = None if self.rest is None else self.rest.nbytes
        weights = sum(site.weights for site in self.sites)
        budget = Budget(prices, weights, self.limits, constant, self.latency is not None)
        for index, (unit, rows) in enumerate(zip(self.units, prices, strict=True)):
            if any(rows[0][column] > row[column] for row in rows for column in budget.watched(index, LATENCY)):
                raise BadInputError(
                    f"a unit's first choice must be its cheapest in every cost: {unit.name}'s, {unit.menu[0]}, is not; "
                    "add a choice that is, or drop this one"
                )
        return budget

    def costs(self, name: str) -> tuple[tuple[int, ...], ...]:
        """Return, by unit and choice, what adds up over the units to a cost of the bitmap, without limits.

        For ``average_bits`` that are the bits of all codes, for ``total_bytes`` the bytes that choices change, and for
        ``latency_seconds`` nanoseconds; :meth:`allowance` says which sum a limit allows.

        Raises:
            BadInputError: There is no such cost, or it is not known of sites alone.
        """
        column = self.budget.column(name)
        return tuple(tuple(int(price[column]) for price in prices) for prices in self.budget.prices)

    def allowance(self, name: str, limit: float) -> int:
        """Return the greatest sum of :meth:`costs` of a bitmap whose cost is within ``limit``, exactly.

        Raises:
            BadInputError: There is no such cost, or the limit is not finite.
        """
        return self.budget.allowance(name, limit)

    def unit_cost(self, unit: int, pick: int) -> SiteCost:
        """Return what a unit adds to the costs of a bitmap with this choice."""
        members = self.units[unit].members
        first, *others = (site_cost(self.sites[m], self.choices[m][pick], 0, self.rest, self.latency) for m in members)
        return sum(others, first)

    def _price(self, unit: int, pick: int) -> Price:
        cost = self.unit_cost(unit, pick)
        names = priced(self.rest is not None, self.latency is not None)
        members = self.units[unit].members
        used = (_widths_of(self.sites[m], self.choices[m][pick]) for m in members)
        widths = [width for weight, activation, cache, _ in used for width in (weight, activation, sum(cache))]
        return *(cost.value(name) for name in names), *widths

    def _scales_are_free(self) -> bool:
        """Return whether a limit on average bits is meant to choose between group sizes, which it cannot tell apart."""
        bounded = set(self.limits)
        if "average_bits" not in bounded or bounded & {"weight_bytes", TOTAL}:
            return False
        return any(len({bits.group_size for bits in unit.menu}) > 1 for unit in self.units)

    def _same(self, member: int, left: LayerBits, right: LayerBits) -> bool:
        return _widths_of(self.sites[member], left) == _widths_of(self.sites[member], right)


def _widths_of(site: Site, bits: LayerBits) -> tuple[int, int, tuple[int, ...], int]:
    """Return what matters at ``site`` of a choice, 0 for what has no effect: the widths of weight, activation and each
    part of the cache, and the group size.
    """
    return (
        bits.weight,
        0 if site.is_embedding else bits.activation,
        site.kv_widths(bits.kv),
        bits.group_size or 0,
    )
