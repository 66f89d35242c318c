"""A bitmap says at which bit-width each site of a model runs.

A *site* is a linear layer that can be quantized, named by its dotted path (``h.0.attn.c_attn``).
:class:`~qalof.layer_bits.LayerBits` gives the choice of one site: the widths of weight, activation and, for the
projections that fill it, the KV cache, and perhaps a group size of the weight.  :class:`Bitmap` is a frozen map site ->
LayerBits in the model's order; it does not depend on a model, so spaces, costs and fronts are computed without one. A
list may leave out the sites outside the blocks, such as a head: they stay at 32 bits then, so the lists of 12 and 48
entries of S2 (docs/systems.md) mean the same on a GPT-2 whose head is a site too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qalof import bitmap_patterns
from qalof.bitmap_file import names_file, read_spec
from qalof.bitmap_names import bitmap_id, text_of
from qalof.bitmap_patterns import block_name, numbered_blocks
from qalof.errors import BadInputError, nearest_hint
from qalof.layer_bits import FULL_PRECISION, WIDTHS, KeyValueWidth, LayerBits, check_width

FORMAT_VERSION = 3
"""The newest format of a bitmap's JSON: the second one has group sizes, and the third one widths of keys and values
that differ.  A bitmap is written in the first format that has what it needs, so older QaLoFs read all that they can."""


class Bitmap(Mapping[str, LayerBits]):
    """Frozen, hashable map site -> :class:`LayerBits`, in the order of the sites given.

    Args:
        layers: one entry per site, and at least one.

    Raises:
        BadInputError: There is no entry.
    """

    __slots__ = ("_hash", "_layers")

    def __init__(self, layers: Mapping[str, LayerBits]) -> None:
        if not layers:
            raise BadInputError("a bitmap must name at least one site: got none")
        self._layers = dict(layers)
        self._hash = hash(tuple(self._layers.items()))

    def __getitem__(self, site: str) -> LayerBits:
        return self._layers[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bitmap) and self._layers == other._layers

    def __repr__(self) -> str:
        return f"Bitmap({self})"

    def __str__(self) -> str:
        """Return the runs of equal layers, ``8x12,4x4``; a uniform bitmap is its one entry."""
        return text_of(self._layers.values())

    @property
    def id(self) -> str:
        """Six characters that name it; see :mod:`qalof.bitmap_names`."""
        return bitmap_id(self)

    @property
    def is_uniform(self) -> bool:
        """Whether every site has the same layer bits."""
        return len(set(self._layers.values())) == 1

    @property
    def sites(self) -> tuple[str, ...]:
        """The site names, in order."""
        return tuple(self._layers)

    @classmethod
    def uniform(cls, sites: Sequence[str], bits: int | str | LayerBits) -> Bitmap:
        """Return a bitmap with the same layer bits at every site."""
        layer = LayerBits.parse(bits)
        return cls(dict.fromkeys(sites, layer))

    def replace(self, changes: Mapping[str, int | str | LayerBits]) -> Bitmap:
        """Return a bitmap with some sites changed.

        Raises:
            BadInputError: This bitmap does not have a site.
        """
        for site in changes:
            if site not in self._layers:
                raise BadInputError(f"no site {site!r} in the bitmap; {nearest_hint(site, self._layers)}")
        return Bitmap(self._layers | {site: LayerBits.parse(bits) for site, bits in changes.items()})

    def to_json(self) -> dict[str, Any]:
        """Return a versioned plain dict; :meth:`from_json` reads it back."""
        layers = self._layers.values()
        grouped = any(bits.group_size is not None for bits in layers)
        apart = any(isinstance(bits.kv, KeyValueWidth) for bits in layers)
        sites = {site: bits.to_json() for site, bits in self._layers.items()}
        return {"version": 3 if apart else 2 if grouped else 1, "sites": sites}

    @classmethod
    def from_json(cls, data: Any, sites: Sequence[str] | None = None) -> Bitmap:
        """Read :meth:`to_json`'s form, or a plain ``{site: bits}`` map.

        Args:
            data: the parsed JSON.
            sites: the model's sites; when given, the bitmap must name exactly these.

        Raises:
            BadInputError: The version is newer, a site is unknown or missing, or a width does not exist.
        """
        if not isinstance(data, Mapping):
            raise BadInputError(f"a bitmap file must hold a JSON object of site -> bits: got {type(data).__name__}")
        version = data.get("version", FORMAT_VERSION)
        if isinstance(version, bool) or version not in range(1, FORMAT_VERSION + 1):
            raise BadInputError(
                f"bitmap format version must be from 1 to {FORMAT_VERSION}: got {version!r}; update QaLoF"
            )
        sites_part = data.get("sites", data)
        if not isinstance(sites_part, Mapping):
            raise BadInputError(f"a bitmap's sites must be an object of site -> bits: got {sites_part!r}")
        layers = {str(site): LayerBits.from_json(bits) for site, bits in sites_part.items()}
        if sites is None:
            return cls(layers)
        for site in layers:
            if site not in sites:
                raise BadInputError(f"the model has no site {site!r}; {nearest_hint(site, sites)}")
        missing = [site for site in sites if site not in layers]
        if missing:
            raise BadInputError(f"a bitmap must give every site its bits: {len(missing)} missing, first {missing[0]!r}")
        return cls({site: layers[site] for site in sites})

    @classmethod
    def parse(cls, spec: str | int | Sequence[int | str] | Mapping[str, Any], sites: Sequence[str]) -> Bitmap:
        """Read a bitmap as users write it, for a model with these ``sites``.

        Forms: one layer form (``8``, ``4g32``, ``w4a8``, ``w4a8k8v4``); a list of 1, of one entry per block, or of one
        entry per site (``"8,8,4,4"``), with or without the sites outside the blocks; runs as printed (``8x4,4x12``); a
        pattern of :mod:`qalof.bitmap_patterns` (``all8``, ``striped84``); the path of a JSON file, and where that holds
        several bitmaps ``FILE#ID`` (:mod:`qalof.bitmap_file`); a map site -> bits.

        Raises:
            BadInputError: The form is none of these, or a list has another length.
        """
        if isinstance(spec, Mapping):
            return cls.from_json(spec.to_json() if isinstance(spec, Bitmap) else spec, sites)
        if isinstance(spec, int):
            return cls.uniform(sites, spec)
        if isinstance(spec, str):
            text = spec.strip()
            if names_file(text):
                found = read_spec(text)
                return cls.parse(found, sites) if isinstance(found, str) else cls.from_json(found, sites)
            pattern = bitmap_patterns.expand(text, sites)
            if pattern is not None:
                return cls(dict(zip(sites, pattern, strict=True)))
            return cls(_listed(_runs(text), sites))
        return cls(_listed([LayerBits.parse(entry) for entry in spec], sites))


def _listed(entries: Sequence[LayerBits], sites: Sequence[str]) -> dict[str, LayerBits]:
    """Spread a list over the sites; see :meth:`Bitmap.parse`."""
    blocks, numbered = block_of_sites(sites), numbered_blocks(sites)
    inside = [block for block in numbered if block is not None]
    # by number of entries, the likelier reading last: the entry that each site takes, None for 32 bits
    places: dict[int, tuple[str, Sequence[int | None]]] = {}
    if inside:
        running = iter(range(len(inside)))
        places[len(inside)] = ("sites in blocks", [None if block is None else next(running) for block in numbered])
        places[max(inside) + 1] = ("numbered blocks", numbered)
    places[max(blocks) + 1] = ("blocks", blocks)
    places[len(sites)] = ("sites", range(len(sites)))
    places[1] = ("everywhere", [0] * len(sites))
    if len(entries) not in places:
        law = ", ".join(f"{count} ({what})" for count, (what, _) in sorted(places.items()))
        raise BadInputError(
            f"a bitmap list must have one of these numbers of entries: {law}; got {len(entries)}; several bitmaps are "
            "given one by one"
        )
    _, taken = places[len(entries)]
    rest = LayerBits.of(FULL_PRECISION)
    return {site: rest if at is None else entries[at] for site, at in zip(sites, taken, strict=True)}


def block_of_sites(sites: Sequence[str]) -> list[int]:
    """Return the index of each site's block, counted in order of appearance: ``h.3.mlp.c_fc`` -> 3.

    A site without a number in its path, such as a head, is a block of its own.
    """
    order: dict[str, int] = {}
    for site in sites:
        order.setdefault(block_name(site), len(order))
    return [order[block_name(site)] for site in sites]


def _runs(text: str) -> list[LayerBits]:
    entries: list[LayerBits] = []
    for item in text.split(","):
        form, run, count = item.strip().partition("x")
        if form[:1].isalpha() and not form.startswith("w"):
            raise BadInputError(f"no bitmap pattern reads like {text!r}; {bitmap_patterns.known(text)}")
        if run and not (count.isascii() and count.isdigit() and len(count) < 6):
            raise BadInputError(f"a run in a bitmap must read like 8x4: got {item.strip()!r}")
        entries += [LayerBits.parse(form)] * int(count or 1)
    return entries


__all__ = [
    "FORMAT_VERSION",
    "FULL_PRECISION",
    "WIDTHS",
    "Bitmap",
    "LayerBits",
    "block_name",
    "block_of_sites",
    "check_width",
]
