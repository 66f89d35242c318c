"""The bitmaps that a search may choose from, and the budget that none of them exceeds.

A space lists the choices of every site, from cheap to expensive; sites that must change together (``group="block"``)
form one *unit* and are chosen by one index.  A limit bounds a cost of :mod:`qalof.cost` from above.  It is kept by
construction: :meth:`BitmapSpace.project` lowers widths until every limit holds, so no bitmap above the budget is ever
evaluated. Penalties and constraint callbacks were rejected, since they only discourage such bitmaps and spend
evaluations on them. This requires that the first choice of a unit is its cheapest in every cost: then one bitmap is the
cheapest of the space, every limit above its costs can be met, and the limits can be met together.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Literal, Protocol

from qalof.bitmap import FULL_PRECISION, Bitmap, LayerBits, block_name, check_width
from qalof.cost import Cost, Rest, cost_of
from qalof.errors import BadInputError
from qalof.model.adapter_spec import SHARED, untrained_widths
from qalof.site import Site
from search.budget import BASE_NAMES, Budget, Indices, Price, check_limit

Group = Literal["site", "block"]
DEFAULT_WIDTHS = (2, 4, 8)
"""The widths of a space whose model has no others."""
_log = logging.getLogger(__name__)


class HasSites(Protocol):
    """A model, as far as a space needs it."""

    @property
    def sites(self) -> Sequence[Site]:
        """The quantizable layers, in order."""
        ...


@dataclass(frozen=True)
class Unit:
    """Sites that are chosen together: a name, their positions in the model's order, and the number of their choices."""

    name: str
    members: tuple[int, ...]
    choices: int


@dataclass(frozen=True)
class BitmapSpace:
    """Every bitmap that takes, at each unit, one of its choices, and costs no more than the limits.

    Attributes:
        sites: the sites of the model, in order.
        choices: the choices by site, from cheap to expensive; sites of one unit have equally many.
        limits: cost name -> greatest allowed value: ``weight_bytes`` bounds the sites' packed weights, ``total_bytes``
            all tensors of the packed model, its adapters included.
        group: whether a unit is a site or a block.
        rest: what the model holds alongside its sites; None where only sites are known, without ``total_bytes``.

    Raises:
        BadInputError: The choices do not fit the sites, a limit is unknown, or no bitmap of the space keeps it.
    """

    sites: tuple[Site, ...]
    choices: tuple[tuple[LayerBits, ...], ...]
    limits: Mapping[str, float] = field(default_factory=dict)
    group: Group = "site"
    rest: Rest | None = field(default=None, repr=False)

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

    @classmethod
    def of(
        cls,
        model: HasSites | Sequence[Site],
        weight: Sequence[int] | None = None,
        activation: Sequence[int] | Literal["same"] = "same",
        kv: Sequence[int] | Literal["same"] | None = "same",
        *,
        limits: Mapping[str, float] | None = None,
        group: Group = "site",
    ) -> BitmapSpace:
        """Make the space of all combinations of widths at every site.

        Args:
            model: a model, or its sites.
            weight: the widths of a weight; None takes those that have an adapter, or 2, 4 and 8 without such adapters.
                The log mentions a width without an adapter of its own.
            activation: the widths of its input; ``same`` takes the weight's.
            kv: the widths of the cache where a site fills it; ``same`` takes the weight's, and None leaves the cache as
                it is.
            limits: cost name -> greatest allowed value.
            group: ``block`` ties the sites of a block to one choice.

        Raises:
            BadInputError: There are no widths, a width does not exist, or a limit is out of reach.
        """
        sites = tuple(model if isinstance(model, Sequence) else model.sites)
        if group not in ("site", "block"):
            raise BadInputError(f"group must be 'site' or 'block': got {group!r}")
        axes = [_widths("weight", _menu(model, weight))]
        axes.append((None,) if activation == "same" else _widths("activation", activation))
        axes.append((None,) if kv is None or kv == "same" else _widths("kv", kv))
        choices: list[tuple[LayerBits, ...]] = [()] * len(sites)
        for _, members in _grouped(sites, group):
            fills_cache = any(sites[member].kv_features for member in members)
            multiplies = any(not sites[member].is_embedding for member in members)
            varied = (axes[0], axes[1] if multiplies else (None,), axes[2] if fills_cache else (None,))
            combinations = list(product(*varied))
            for member in members:
                inert = kv is None or not sites[member].kv_features
                choices[member] = tuple(_layer(w, a, None if inert else k, kv is None) for w, a, k in combinations)
        rest = None if isinstance(model, Sequence) else getattr(model, "rest", None)
        return cls(sites, tuple(choices), dict(limits or {}), group, rest)

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The units that are chosen, in the model's order."""
        grouped = _grouped(self.sites, self.group)
        return tuple(Unit(name, members, len(self.choices[members[0]])) for name, members in grouped)

    @property
    def size(self) -> int:
        """The number of index vectors, without regard to limits."""
        return math.prod(unit.choices for unit in self.units)

    def decode(self, indices: Sequence[int]) -> Bitmap:
        """Return the bitmap with these choices, one index per unit. It may exceed the limits: :meth:`project` it."""
        chosen = {member: index for unit, index in zip(self.units, indices, strict=True) for member in unit.members}
        return Bitmap({site.name: self.choices[i][chosen[i]] for i, site in enumerate(self.sites)})

    def encode(self, bitmap: Bitmap) -> Indices:
        """Invert :meth:`decode`; KV widths are ignored where a site feeds no cache, and activations at a look-up.

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
        members = self.units[unit].members
        return str(self.choices[next((m for m in members if self.sites[m].kv_features), members[0])][index])

    def uniform(self) -> tuple[Bitmap, ...]:
        """Return the bitmaps within the limits with the same layer bits at every site, from cheap to expensive."""
        found = []
        for layer in sorted({bits for choices in self.choices for bits in choices}):
            try:
                bitmap = self.decode([self.find(unit, layer) for unit in range(len(self.units))])
            except BadInputError:
                continue
            if self.fits(bitmap) and bitmap not in found:
                found.append(bitmap)
        return tuple(found)

    def cost(self, bitmap: Bitmap) -> Cost:
        """Return the cost of a bitmap of this model."""
        return cost_of(bitmap, self.sites, rest=self.rest)

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
        return self.decode(self.budget.lowered(self.encode(bitmap)))

    @cached_property
    def budget(self) -> Budget:
        """The prices and limits, for code that steps along the choices."""
        for name in self.limits:
            check_limit(name)
        prices = tuple(tuple(self._price(unit, index) for index in range(unit.choices)) for unit in self.units)
        constant = None if self.rest is None else self.rest.nbytes
        budget = Budget(prices, sum(site.weights for site in self.sites), self.limits, constant)
        for index, (unit, rows) in enumerate(zip(self.units, prices, strict=True)):
            if any(rows[0][column] > row[column] for row in rows for column in budget.watched(index)):
                raise BadInputError(f"a unit's first choice must be its cheapest in every cost: {unit.name}'s is not")
        return budget

    def _price(self, unit: Unit, index: int) -> Price:
        sites = [self.sites[member] for member in unit.members]
        layers = {self.sites[member].name: self.choices[member][index] for member in unit.members}
        cost = cost_of(Bitmap(layers), sites, rest=self.rest)
        bits = sum(site.weights * layers[site.name].weight for site in sites)
        costs = [float(bits) if name == "average_bits" else cost.value(name) for name in BASE_NAMES]
        if self.rest is not None:
            costs.append(cost.value("total_bytes") - self.rest.nbytes)
        widths = [_widths_of(site, layers[site.name]) for site in sites]
        return *costs, *(float(width) for row in widths for width in row)

    def _same(self, member: int, left: LayerBits, right: LayerBits) -> bool:
        return _widths_of(self.sites[member], left) == _widths_of(self.sites[member], right)


def _grouped(sites: Sequence[Site], group: Group) -> list[tuple[str, tuple[int, ...]]]:
    groups: dict[str, list[int]] = {}
    for index, site in enumerate(sites):
        groups.setdefault(block_name(site.name) if group == "block" else site.name, []).append(index)
    return [(name, tuple(members)) for name, members in groups.items()]


def _menu(model: object, weight: Sequence[int] | None) -> Sequence[int]:
    """Return the weight widths to choose from; the log mentions those that another width's adapter would serve."""
    names = tuple(getattr(model, "adapters", ()))
    own = sorted(int(name) for name in names if name != SHARED)
    if weight is None:
        return own or DEFAULT_WIDTHS
    if not isinstance(weight, str) and own and (said := untrained_widths(weight, names, model.policy)):  # type: ignore[attr-defined]
        _log.warning("%s", said)
    return weight


def _widths(what: str, widths: Sequence[int] | str | None) -> tuple[int | None, ...]:
    if isinstance(widths, str) or not widths:
        raise BadInputError(f"{what} must be a list of widths: got {widths!r}; for example (2, 4, 8)")
    return tuple(sorted({check_width(bits, what) for bits in widths}))


def _widths_of(site: Site, bits: LayerBits) -> tuple[int, int, int]:
    """Return the widths of weight, activation and cache that matter at ``site``; 0 for one without effect."""
    return bits.weight, 0 if site.is_embedding else bits.activation, bits.kv if site.kv_features else 0


def _layer(weight: int | None, activation: int | None, kv: int | None, full_precision: bool) -> LayerBits:
    assert weight is not None
    # a KV width without effect follows the weight, so a uniform bitmap reads as one number
    cache = FULL_PRECISION if full_precision else kv
    return LayerBits(weight, activation or weight, cache or weight)
