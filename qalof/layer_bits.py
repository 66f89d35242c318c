"""The choice of one site: the bit-widths of its weight, its input activations and its share of the KV cache, and how
many input features of the weight share a scale.

Widths are whole bits from 2 to 16, or 32, which leaves the tensor untouched.  A KV width at a site
that feeds no cache is inert: it keeps uniform bitmaps and the list forms short to write.

``w4a8k8v4`` is a cache that holds keys at 8 bits and values at 4 (:class:`KeyValueWidth`), since the two bear rounding
differently; ``kv8`` holds both at 8.  At a site that makes keys alone, as ``k_proj`` does, the width of the values is
inert, and the other way round.

``w4g32`` is a weight of 4 bits in groups of 32 input features, whatever granularity the model's quantizer has by
itself; without ``g`` the quantizer decides.  The group size belongs to the choice and not to the scheme alone because
it outweighs the width: at 4 bits a small language model loses more by scales per output channel than by the allocation
of all its widths, and each site pays for its scales in bytes (:mod:`qalof.cost`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import total_ordering

from qalof.errors import BadInputError

FULL_PRECISION = 32
"""The width at which a tensor stays as it is."""

FLOAT_BYTES = 4
"""The size in bytes of a number that is not quantized, in fp32."""

WIDTHS = (*range(2, 17), FULL_PRECISION)

_LAYER_FORM = re.compile(r"w([0-9]+)(?:g([0-9]{1,9}))?(?:a([0-9]+))?(?:kv([0-9]+)|(k[0-9]+v[0-9]+))?$")
_KV_FORM = re.compile(r"k([0-9]{1,9})v([0-9]{1,9})")
_UNIFORM_FORM = re.compile(r"([0-9]+)(?:g([0-9]{1,9}))?$")


def check_width(bits: int, what: str = "bits") -> int:
    """Return ``bits`` if it is a legal width.

    Raises:
        BadInputError: not a whole number from 2 to 16, nor 32.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in WIDTHS:
        raise BadInputError(f"{what} must be a whole number from 2 to 16, or 32 for full precision: got {bits!r}")
    return bits


@total_ordering
@dataclass(frozen=True)
class GroupedWidth:
    """A weight's width with a group size of its own, printed ``4g32``; sorted by bits, then from few scales to many."""

    bits: int
    group_size: int

    def __lt__(self, other: GroupedWidth) -> bool:
        return (self.bits, -self.group_size) < (other.bits, -other.group_size)

    def __str__(self) -> str:
        return f"{self.bits}g{self.group_size}"


WeightWidth = float | GroupedWidth
"""What a weight is rounded to: bits under the granularity of its quantizer, or bits in groups of a size."""


@total_ordering
@dataclass(frozen=True)
class KeyValueWidth:
    """The widths of a cache that holds keys and values at different ones, printed ``k8v4``.

    They are sorted by the bits of both together, then by those of the keys.

    Raises:
        BadInputError: A width does not exist.
    """

    keys: int
    """The bits of a key's features."""
    values: int
    """The bits of a value's features."""

    def __post_init__(self) -> None:
        check_width(self.keys, "the width of keys")
        check_width(self.values, "the width of values")

    @property
    def bits(self) -> float:
        """The mean bits of a cached feature, of which half are keys."""
        return (self.keys + self.values) / 2

    def __lt__(self, other: KeyValueWidth) -> bool:
        return (self.bits, self.keys) < (other.bits, other.keys)

    def __str__(self) -> str:
        return f"k{self.keys}v{self.values}"


KvWidth = int | KeyValueWidth
"""What a cache is rounded to: bits of keys and values alike, or bits of each."""

AnyWidth = WeightWidth | KeyValueWidth
"""What a weight, an input or a cache is rounded to."""


def read_kv(width: object) -> KvWidth:
    """Return the width of a cache that ``8``, ``"8"`` or ``"k8v4"`` stands for; ``k8v8`` is ``8``.

    Raises:
        BadInputError: The form is another one, or a width does not exist.
    """
    if isinstance(width, KeyValueWidth):
        return width.keys if width.keys == width.values else width
    text = str(width).strip() if isinstance(width, str) else ""
    if form := _KV_FORM.fullmatch(text):
        return read_kv(KeyValueWidth(int(form[1]), int(form[2])))
    if text.isascii() and text.isdigit() and len(text) < 10:
        return check_width(int(text), "kv")
    if isinstance(width, bool) or not isinstance(width, int) or width not in WIDTHS:
        raise BadInputError(
            f"kv must be a whole number from 2 to 16, or 32 for full precision, or read like k8v4, which is keys at 8 "
            f"and values at 4: got {width!r}"
        )
    return width


def bits_of(width: AnyWidth) -> float:
    """Return the bits of a code; where those of keys and values differ, their mean."""
    return width.bits if isinstance(width, GroupedWidth | KeyValueWidth) else width


def width_order(width: AnyWidth) -> tuple[float, float]:
    """Return a key that sorts widths by bits, each first by itself, then from few scales to many and by the keys."""
    if isinstance(width, GroupedWidth):
        return width.bits, 1 / width.group_size
    return (width.bits, width.keys) if isinstance(width, KeyValueWidth) else (width, 0)


def listed(widths: Iterable[WeightWidth]) -> str:
    """Return widths as an error lists them, from low to high: ``[4, 4g32, 8]``."""
    return f"[{', '.join(map(str, sorted(widths, key=width_order)))}]"


@total_ordering
@dataclass(frozen=True)
class LayerBits:
    """The choice of one site: bits of its weight, its input activations and its share of the KV cache.

    ``kv``: of keys and values alike, or a :class:`KeyValueWidth` where the two differ.  ``group_size``: how many input
    features of the weight share a scale; None leaves that to the quantizer.

    Raises:
        BadInputError: A width does not exist, or a group size is given to a weight that is not rounded.
    """

    weight: int
    activation: int
    kv: KvWidth = FULL_PRECISION
    group_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("weight", "activation"):
            check_width(getattr(self, name), name)
        object.__setattr__(self, "kv", read_kv(self.kv))
        size = self.group_size
        if size is None:
            return
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise BadInputError(f"group_size must be a whole number of at least 1, or null for none: got {size!r}")
        if self.weight == FULL_PRECISION:
            raise BadInputError(
                f"a group shares a scale, which a weight at {FULL_PRECISION} bits does not have: got "
                f"w{self.weight}g{size}; leave the group size out"
            )

    @property
    def weight_width(self) -> int | GroupedWidth:
        """The weight's bits, with its group size where it has one: what the weight is rounded to."""
        return self.weight if self.group_size is None else GroupedWidth(self.weight, self.group_size)

    @classmethod
    def of(cls, width: int | GroupedWidth) -> LayerBits:
        """Return the same width for weight, activation and KV cache, and a group size for the weight."""
        if isinstance(width, GroupedWidth):
            return cls(width.bits, width.bits, width.bits, width.group_size)
        return cls(width, width, width)

    @classmethod
    def parse(cls, text: str | int | LayerBits) -> LayerBits:
        """Read ``8`` as 8 for all, and ``w4``, ``w4a8`` or ``w4a8kv8`` as widths of their own, with 32 for the others.

        A weight's bits may be followed by its group size: ``4g32``, ``w4g32``, ``w4g32a8kv8``.  Keys and values may
        have widths of their own: ``w4a8k8v4``.

        Raises:
            BadInputError: The form is another one, or a width does not exist.
        """
        if isinstance(text, LayerBits):
            return text
        if isinstance(text, int):
            return cls.of(check_width(text))
        form = text.strip()
        uniform = _UNIFORM_FORM.match(form)
        if uniform is not None:
            bits, size = uniform.groups()
            return cls(int(bits), int(bits), int(bits), None if size is None else int(size))
        match = _LAYER_FORM.match(form)
        if match is None:
            raise BadInputError(
                f"a layer's bits must read like 8, 4g32, w4, w4g32, w4a8, w4g32a8kv8 or w4a8k8v4: got {text!r}"
            )
        weight, size, activation, alike, apart = match.groups()
        sized = None if size is None else int(size)
        cache = read_kv(apart or int(alike or FULL_PRECISION))
        return cls(int(weight), int(activation or FULL_PRECISION), cache, sized)

    @classmethod
    def from_json(cls, bits: object) -> LayerBits:
        """Read a number or form, as :meth:`parse` does, or an object of ``weight``, ``activation`` and perhaps ``kv``
        and ``group_size``.

        Raises:
            BadInputError: none of these.
        """
        if isinstance(bits, Mapping):
            unknown = set(bits) - {"weight", "activation", "kv", "group_size"}
            if unknown or "weight" not in bits or "activation" not in bits:
                raise BadInputError(
                    f"layer bits must have weight, activation and perhaps kv and group_size: got {sorted(bits)}"
                )
            return cls(**bits)
        if isinstance(bits, int | str):
            return cls.parse(bits)
        raise BadInputError(f"layer bits must be a number, a form like w4a8, or an object: got {bits!r}")

    def to_json(self) -> dict[str, int | str]:
        """Return an object that :meth:`from_json` reads back; without a group size, and with keys and values at one
        width, it is as in format version 1.  Other widths of keys and values are text, ``"kv": "k8v4"``.
        """
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        written = {name: str(bits) if isinstance(bits, KeyValueWidth) else bits for name, bits in found.items()}
        return {name: bits for name, bits in written.items() if bits is not None}

    def __lt__(self, other: LayerBits) -> bool:
        return self._order() < other._order()

    def _order(self) -> tuple[float, ...]:
        return *width_order(self.weight_width), self.activation, *width_order(self.kv)

    def __str__(self) -> str:
        if self.weight == self.activation == self.kv:
            return str(self.weight_width)
        same = "" if self.kv == FULL_PRECISION else f"kv{self.kv}"
        kv = str(self.kv) if isinstance(self.kv, KeyValueWidth) else same
        return f"w{self.weight_width}a{self.activation}{kv}"
