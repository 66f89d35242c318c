"""The menus of a space: which choices each unit has, from cheap to expensive.

A menu is made of three lists of widths.  Those of a weight may have a group size, ``("4", "4g32", "8")``: 4 bits under
the granularity of the model's quantizer, 4 bits in groups of 32 input features with the scales that these cost, and 8
bits.  Those of a cache may be ``"k8v4"``, keys at 8 bits and values at 4.  A unit has all combinations of a weight
width, an activation width and a KV width that matter to it: a look-up has no input to round, only some sites fill the
cache, and some of these with keys or with values alone.  Weight widths are sorted by bits, and those of equal bits by
the bytes that the unit's weights take with them; KV widths are sorted by the bytes of the unit's cache.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product
from typing import Any, Literal

from qalof.bitmap import FULL_PRECISION, LayerBits, check_width
from qalof.errors import BadInputError, nearest_hint
from qalof.layer_bits import KeyValueWidth, KvWidth, WeightWidth, bits_of, read_kv, width_order
from qalof.model.adapter_spec import SHARED, untrained_widths
from qalof.site import Site
from qalof.site_cost import kv_bytes, site_cost, weight_bytes
from search.grouping import Grouping

DEFAULT_WIDTHS = (3, 4, 5, 6, 7, 8)
"""The weight widths of a space whose model has no widths of its own, less those that its quantizers lack."""

WeightWidths = Sequence[int | str]
"""The widths of weights as users write them: ``4``, ``"4"`` or ``"4g32"``."""

CacheWidths = Sequence[int | str | KeyValueWidth]
"""The widths of caches as users write them: ``8``, ``"8"`` or ``"k8v4"``."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Menu:
    """The widths to choose from; all their combinations are choices.

    Attributes:
        weight: the widths of a weight, with or without a group size.
        activation: the widths of a layer's input; ``same`` takes the weight's.
        kv: the widths of the cache where a site fills it, with keys and values alike or apart (``"k8v4"``); ``same``
            takes the weight's, and None leaves the cache as it is.

    Raises:
        BadInputError: A list is empty, or a width does not exist.
    """

    weight: WeightWidths
    activation: Sequence[int] | Literal["same"] = "same"
    kv: CacheWidths | Literal["same"] | None = "same"

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", tuple(str(width) for width in _weights(self.weight)))
        if self.activation != "same":
            object.__setattr__(self, "activation", _widths("activation", self.activation))
        if self.kv is not None and self.kv != "same":
            object.__setattr__(self, "kv", _caches(self.kv))

    @classmethod
    def of(cls, model: object, sites: Sequence[Site], weight: WeightWidths | None, activation: Any, kv: Any) -> Menu:
        """Return the menu of ``model``; without weight widths, those that have an adapter, or otherwise 3 to 8 bits.

        Raises:
            BadInputError: See the class; or no width of 3 to 8 bits is one of the model's quantizers.
        """
        own = sorted(int(name) for name in getattr(model, "adapters", ()) if name != SHARED)
        return cls(weight if weight is not None else own or _default_widths(sites), activation, kv)

    def choices(self, sites: Sequence[Site]) -> list[tuple[LayerBits, ...]]:
        """Return the choices of the ``sites`` of one unit, by site; the sites of a unit have equally many.

        Raises:
            BadInputError: A site's quantizer lacks a width or a group size.
        """
        weights = sorted(_weights(self.weight), key=lambda width: (bits_of(width), _stored(sites, width)))
        activations = (None,) if self.activation == "same" else self.activation
        caches = self._caches_of(sites) or (None,)
        if all(site.is_embedding for site in sites):
            activations = (None,)
        # a KV width without effect is the only one that there is, or the weight's: a uniform bitmap then reads as one
        without_effect = self.kv[0] if isinstance(self.kv, tuple) and len(self.kv) == 1 else None
        combinations = list(product(weights, activations, caches))
        found = []
        for site in sites:
            inert = not site.kv_features
            layers = [self._layer(w, a, without_effect if inert else k) for w, a, k in combinations]
            found.append(tuple(layers))
        return found

    def _caches_of(self, sites: Sequence[Site]) -> tuple[KvWidth, ...]:
        """Return the widths of the cache that differ at ``sites``, from few bytes to many; none where they fill none,
        or take the weight's.
        """
        if self.kv is None or self.kv == "same" or not any(site.kv_features for site in sites):
            return ()
        different: dict[tuple[tuple[int, ...], ...], KvWidth] = {}
        # k8v4 is 8 at a site that makes keys alone, and reads so where the menu has both
        for width in sorted(map(read_kv, self.kv), key=lambda width: isinstance(width, KeyValueWidth)):
            different.setdefault(tuple(site.kv_widths(width) for site in sites), width)
        stored = {width: sum(kv_bytes(site, width) for site in sites) for width in different.values()}
        return tuple(sorted(stored, key=lambda width: (stored[width], width_order(width))))

    def _layer(self, width: WeightWidth, activation: Any, kv: Any) -> LayerBits:
        plain = LayerBits.of(width)  # type: ignore[arg-type]
        cache = FULL_PRECISION if self.kv is None else kv or plain.weight
        return replace(plain, activation=activation or plain.activation, kv=cache)


def menus_by_site(
    sites: Sequence[Site],
    default: Menu,
    menus: Mapping[str, Menu | Mapping[str, Any]],
    fixed: Mapping[str, int | str | LayerBits],
) -> list[Menu | LayerBits]:
    """Return, by site, its menu, or the one choice that it is fixed at.

    Args:
        sites: the model's.
        default: the menu of every site that no pattern matches.
        menus: pattern of site names -> a menu, or its settings, of which those left out are the default menu's.
        fixed: pattern of site names -> the layer bits of all sites that match.

    Raises:
        BadInputError: A pattern matches no site, a site matches two patterns, or a setting does not exist.
    """
    chosen: dict[str, Menu | LayerBits] = {}
    for pattern, given in menus.items():
        chosen[pattern] = given if isinstance(given, Menu) else _overridden(default, given, pattern)
    for pattern, bits in fixed.items():
        if pattern in chosen:
            raise BadInputError(f"a pattern may have a menu or be fixed: {pattern!r} has both; drop one")
        chosen[pattern] = LayerBits.parse(bits)
    names = [site.name for site in sites]
    found: list[Menu | LayerBits] = []
    used: set[str] = set()
    for name in names:
        matched = [pattern for pattern in chosen if fnmatchcase(name, pattern)]
        if len(matched) > 1:
            raise BadInputError(f"a site may have one menu: {name} matches {matched[0]!r} and {matched[1]!r}")
        used.update(matched)
        found.append(chosen[matched[0]] if matched else default)
    for pattern in chosen:
        if pattern not in used:
            raise BadInputError(f"a menu must be of a site: {pattern!r} matches none; {nearest_hint(pattern, names)}")
    return found


def choices_of(
    model: object, sites: Sequence[Site], grouping: Grouping, menus: Sequence[Menu | LayerBits]
) -> tuple[tuple[LayerBits, ...], ...]:
    """Return the choices of each site, where the sites of a unit have equally many.

    The log mentions weight widths for which the model has no adapter of its own.

    Raises:
        BadInputError: The sites of a unit have different menus, or a site's quantizer lacks a width or a group size.
    """
    choices: list[tuple[LayerBits, ...]] = [()] * len(sites)
    for name, members in grouping.units([site.name for site in sites]):
        found = _of_unit(name, [sites[member] for member in members], [menus[member] for member in members])
        for member, each in zip(members, found, strict=True):
            choices[member] = each
    used = zip(sites, choices, strict=True)
    _warn_of_untrained(model, sorted({bits.weight for site, each in used if site.has_adapter for bits in each}))
    return tuple(choices)


def _of_unit(name: str, sites: Sequence[Site], menus: Sequence[Menu | LayerBits]) -> list[tuple[LayerBits, ...]]:
    fixed: list[tuple[LayerBits, ...]] = [(menu,) for menu in menus if isinstance(menu, LayerBits)]
    if len(fixed) == len(menus):
        return fixed
    first = menus[0]
    odd = next((site.name for site, menu in zip(sites, menus, strict=True) if menu != first), None)
    if odd is not None or isinstance(first, LayerBits):
        raise BadInputError(
            f"sites that are chosen together must have one menu: in {name}, {odd} has another than {sites[0].name}; "
            "give both the same, or take group site"
        )
    return first.choices(sites)


def _warn_of_untrained(model: object, bits: Sequence[int]) -> None:
    names = tuple(getattr(model, "adapters", ()))
    if any(name != SHARED for name in names) and (said := untrained_widths(bits, names, model.policy)):  # type: ignore[attr-defined]
        _log.warning("%s", said)


def _default_widths(sites: Sequence[Site]) -> tuple[int, ...]:
    def has(bits: int) -> bool:
        try:
            return all(site_cost(site, LayerBits.of(bits)) for site in sites)
        except BadInputError:
            return False

    learned = {bits for site in sites for bits in site.quantization.widths}
    found = tuple(bits for bits in DEFAULT_WIDTHS if (not learned or bits in learned) and has(bits))
    if not found:
        raise BadInputError(
            "a menu must name its weight widths where the model's quantizers have none of 3 to 8 bits: got none"
        )
    return found


def _overridden(default: Menu, given: Mapping[str, Any], pattern: str) -> Menu:
    known = ("weight", "activation", "kv")
    for key in given:
        if key not in known:
            raise BadInputError(f"the menu of {pattern!r} has no setting {key!r}; {nearest_hint(key, known)}")
    return replace(default, **given)


def _weights(widths: WeightWidths | None) -> list[int | WeightWidth]:
    if isinstance(widths, str) or not widths:
        raise BadInputError(f"weight must be a list of widths: got {widths!r}; for example (3, 4, '4g32', 8)")
    parsed = {_weight(width) for width in widths}
    return sorted({layer.weight_width for layer in parsed}, key=lambda w: (bits_of(w), str(w)))


def _weight(width: int | str) -> LayerBits:
    if isinstance(width, int):
        return LayerBits.of(check_width(width, "weight"))
    layer = LayerBits.parse(width)
    if str(layer.weight_width) != str(width).strip().removeprefix("w"):
        raise BadInputError(f"a weight width must read like 4, w4 or 4g32: got {width!r}; activations have a list too")
    return layer


def _widths(what: str, widths: Sequence[int] | str | None) -> tuple[int, ...]:
    if isinstance(widths, str) or not widths:
        raise BadInputError(f"{what} must be a list of widths: got {widths!r}; for example (2, 4, 8)")
    return tuple(sorted({check_width(bits, what) for bits in widths}))


def _caches(widths: CacheWidths | str | None) -> tuple[KvWidth, ...]:
    if isinstance(widths, str) or not widths:
        raise BadInputError(f"kv must be a list of widths: got {widths!r}; for example (4, 8, 'k8v4')")
    return tuple(sorted({read_kv(width) for width in widths}, key=width_order))


def _stored(sites: Sequence[Site], width: WeightWidth) -> int:
    return sum(weight_bytes(site, width) for site in sites)
