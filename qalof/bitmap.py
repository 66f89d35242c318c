"""Bitmaps: which bit-width each site of a model runs at.

A *site* is a linear layer that can be quantized, named by its dotted path (``h.0.attn.c_attn``).
:class:`LayerBits` gives the widths of one site: weight, activation and, for the projections that fill
it, the KV cache.  :class:`Bitmap` is a frozen map site -> LayerBits in the model's order; it knows
nothing of models, so that spaces, costs and fronts are computed without one.

Widths are whole bits from 2 to 16, or 32, which leaves the tensor untouched.  A KV width at a site
that feeds no cache is inert: it keeps ``uniform`` and the list forms short to write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from qalof.errors import BadInputError, nearest_hint

PASS_THROUGH = 32
"""The width that leaves a tensor as it is."""

WIDTHS = (*range(2, 17), PASS_THROUGH)
FORMAT_VERSION = 1

_LAYER_FORM = re.compile(r"w(\d+)a(\d+)(?:kv(\d+))?$")
_UNIFORM_PATTERN = re.compile(r"all(\d+)$")
_STRIPED_PATTERN = re.compile(r"striped(\d)(\d)$")


def check_width(bits: int, what: str = "bits") -> int:
    """Return ``bits`` if it is a legal width.

    Raises:
        BadInputError: not a whole number from 2 to 16, nor 32.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in WIDTHS:
        raise BadInputError(f"{what} must be a whole number from 2 to 16, or 32 for pass-through: got {bits!r}")
    return bits


@dataclass(frozen=True, order=True)
class LayerBits:
    """Bit-widths of one site: of its weight, its input activations and its share of the KV cache."""

    weight: int
    activation: int
    kv: int = PASS_THROUGH

    def __post_init__(self) -> None:
        for name, bits in asdict(self).items():
            check_width(bits, name)

    @classmethod
    def of(cls, bits: int) -> LayerBits:
        """The same width for weight, activation and KV cache."""
        return cls(bits, bits, bits)

    @classmethod
    def parse(cls, text: str | int | LayerBits) -> LayerBits:
        """``8`` -> 8 everywhere; ``w4a8`` or ``w4a8kv8`` -> each its own (KV 32 if not named).

        Raises:
            BadInputError: another form, or a width that does not exist.
        """
        if isinstance(text, LayerBits):
            return text
        if isinstance(text, int):
            return cls.of(check_width(text))
        form = text.strip()
        if form.isdigit():
            return cls.of(int(form))
        match = _LAYER_FORM.match(form)
        if match is None:
            raise BadInputError(f"a layer's bits must read like 8 or w4a8 or w4a8kv8: got {text!r}")
        weight, activation, kv = match.groups()
        return cls(int(weight), int(activation), int(kv) if kv else PASS_THROUGH)

    def __str__(self) -> str:
        if self.weight == self.activation == self.kv:
            return str(self.weight)
        kv = "" if self.kv == PASS_THROUGH else f"kv{self.kv}"
        return f"w{self.weight}a{self.activation}{kv}"


class Bitmap(Mapping[str, LayerBits]):
    """Frozen, hashable map site -> :class:`LayerBits`, in the order of the sites given.

    Args:
        layers: one entry a site; at least one.

    Raises:
        BadInputError: empty.
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
        """Runs of equal layers, ``8x12,4x4``; a uniform bitmap is its one entry."""
        runs = [(bits, len(list(run))) for bits, run in groupby(self._layers.values())]
        if len(runs) == 1:
            return str(runs[0][0])
        return ",".join(f"{bits}x{count}" if count > 1 else str(bits) for bits, count in runs)

    @property
    def sites(self) -> tuple[str, ...]:
        """The site names, in order."""
        return tuple(self._layers)

    @classmethod
    def uniform(cls, sites: Sequence[str], bits: int | str | LayerBits) -> Bitmap:
        """The same layer bits at every site."""
        layer = LayerBits.parse(bits)
        return cls(dict.fromkeys(sites, layer))

    def replace(self, changes: Mapping[str, int | str | LayerBits]) -> Bitmap:
        """A bitmap with some sites changed.

        Raises:
            BadInputError: a site that this bitmap does not have.
        """
        for site in changes:
            if site not in self._layers:
                raise BadInputError(f"no site {site!r} in the bitmap; {nearest_hint(site, self._layers)}")
        return Bitmap(self._layers | {site: LayerBits.parse(bits) for site, bits in changes.items()})

    def to_json(self) -> dict[str, Any]:
        """A versioned plain dict; :meth:`from_json` reads it back."""
        return {"version": FORMAT_VERSION, "sites": {site: asdict(bits) for site, bits in self._layers.items()}}

    @classmethod
    def from_json(cls, data: Any, sites: Sequence[str] | None = None) -> Bitmap:
        """Read :meth:`to_json`'s form, or a plain ``{site: bits}`` map.

        Args:
            data: the parsed JSON.
            sites: the model's sites; when given, the bitmap must name exactly these.

        Raises:
            BadInputError: a newer version, an unknown or missing site, a width that does not exist.
        """
        if not isinstance(data, Mapping):
            raise BadInputError(f"a bitmap file must hold a JSON object of site -> bits: got {type(data).__name__}")
        version = data.get("version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise BadInputError(f"bitmap format version must be {FORMAT_VERSION}: got {version!r}; update QaLoF")
        layers = {str(site): _layer_from_json(bits) for site, bits in data.get("sites", data).items()}
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
    def parse(cls, spec: str | int | Sequence[int | str] | Bitmap, sites: Sequence[str]) -> Bitmap:
        """Read a bitmap as users write it, for a model with these ``sites``.

        Forms: one layer form (``8``, ``w4a8``); a list of 1, of one entry a block, or of one entry a site
        (``"8,8,4,4"``); runs as printed (``8x4,4x12``); a named pattern (``all8``; ``striped84``:
        alternating blocks); the path of a JSON file.

        Raises:
            BadInputError: none of these, or a list of another length.
        """
        if isinstance(spec, Bitmap):
            return cls.from_json(spec.to_json(), sites)
        if isinstance(spec, int):
            return cls.uniform(sites, spec)
        if isinstance(spec, str):
            text = spec.strip()
            if text.endswith(".json"):
                return cls.from_json(_read_json(Path(text)), sites)
            entries = _expand(text)
        else:
            entries = [LayerBits.parse(entry) for entry in spec]
        blocks = block_of_sites(sites)
        count = len(set(blocks))
        if len(entries) == 2 and isinstance(spec, str) and _STRIPED_PATTERN.match(spec.strip()):
            return cls({site: entries[block % 2] for site, block in zip(sites, blocks, strict=True)})
        if len(entries) == 1:
            return cls.uniform(sites, entries[0])
        if len(entries) == len(sites):
            return cls(dict(zip(sites, entries, strict=True)))
        if len(entries) == count:
            return cls({site: entries[block] for site, block in zip(sites, blocks, strict=True)})
        raise BadInputError(
            f"a bitmap list must have 1, {count} (blocks) or {len(sites)} (sites) entries: got {len(entries)}"
        )


def block_of_sites(sites: Sequence[str]) -> list[int]:
    """The index of each site's block, counted in order of appearance: ``h.3.mlp.c_fc`` -> 3.

    A site without a number in its path, such as a head, is a block of its own.
    """
    order: dict[str, int] = {}
    for site in sites:
        order.setdefault(block_name(site), len(order))
    return [order[block_name(site)] for site in sites]


def block_name(site: str) -> str:
    """The path up to its first number: ``h.3.mlp.c_fc`` -> ``h.3``; the whole path where there is none."""
    parts = site.split(".")
    for index, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: index + 1])
    return site


def _expand(text: str) -> list[LayerBits]:
    if match := _UNIFORM_PATTERN.match(text):
        return [LayerBits.parse(match[1])]
    if match := _STRIPED_PATTERN.match(text):
        return [LayerBits.parse(match[1]), LayerBits.parse(match[2])]
    entries: list[LayerBits] = []
    for item in text.split(","):
        form, _, count = item.strip().partition("x")
        if count and not count.isdigit():
            raise BadInputError(f"a run in a bitmap must read like 8x4: got {item.strip()!r}")
        entries += [LayerBits.parse(form)] * int(count or 1)
    return entries


def _layer_from_json(bits: Any) -> LayerBits:
    if isinstance(bits, Mapping):
        unknown = set(bits) - {"weight", "activation", "kv"}
        if unknown or "weight" not in bits or "activation" not in bits:
            raise BadInputError(f"layer bits must have weight, activation and perhaps kv: got {sorted(bits)}")
        return LayerBits(**bits)
    if isinstance(bits, int | str):
        return LayerBits.parse(bits)
    raise BadInputError(f"layer bits must be a number, a form like w4a8, or an object: got {bits!r}")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInputError(f"bitmap file {path} does not exist") from None
    except json.JSONDecodeError as error:
        raise BadInputError(f"bitmap file {path} is not JSON: {error}") from None
