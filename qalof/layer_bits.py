"""Bit-widths of one site: its weight, its input activations and its share of the KV cache.

Widths are whole bits from 2 to 16, or 32, which leaves the tensor untouched.  A KV width at a site
that feeds no cache is inert: it keeps uniform bitmaps and the list forms short to write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from qalof.errors import BadInputError

FULL_PRECISION = 32
"""The width at which a tensor stays as it is."""

WIDTHS = (*range(2, 17), FULL_PRECISION)

_LAYER_FORM = re.compile(r"w([0-9]+)(?:a([0-9]+))?(?:kv([0-9]+))?$")


def check_width(bits: int, what: str = "bits") -> int:
    """Return ``bits`` if it is a legal width.

    Raises:
        BadInputError: not a whole number from 2 to 16, nor 32.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in WIDTHS:
        raise BadInputError(f"{what} must be a whole number from 2 to 16, or 32 for full precision: got {bits!r}")
    return bits


@dataclass(frozen=True, order=True)
class LayerBits:
    """Bit-widths of one site: of its weight, its input activations and its share of the KV cache."""

    weight: int
    activation: int
    kv: int = FULL_PRECISION

    def __post_init__(self) -> None:
        for name, bits in asdict(self).items():
            check_width(bits, name)

    @classmethod
    def of(cls, bits: int) -> LayerBits:
        """Return the same width for weight, activation and KV cache."""
        return cls(bits, bits, bits)

    @classmethod
    def parse(cls, text: str | int | LayerBits) -> LayerBits:
        """Read ``8`` as 8 for all, and ``w4``, ``w4a8`` or ``w4a8kv8`` as widths of their own, with 32 for the others.

        Raises:
            BadInputError: The form is another one, or a width does not exist.
        """
        if isinstance(text, LayerBits):
            return text
        if isinstance(text, int):
            return cls.of(check_width(text))
        form = text.strip()
        if form.isascii() and form.isdigit():
            return cls.of(int(form))
        match = _LAYER_FORM.match(form)
        if match is None:
            raise BadInputError(f"a layer's bits must read like 8 or w4 or w4a8 or w4a8kv8: got {text!r}")
        weight, activation, kv = match.groups()
        return cls(int(weight), int(activation or FULL_PRECISION), int(kv or FULL_PRECISION))

    @classmethod
    def from_json(cls, bits: object) -> LayerBits:
        """Read a number or form, as :meth:`parse` does, or an object of ``weight``, ``activation`` and perhaps ``kv``.

        Raises:
            BadInputError: none of these.
        """
        if isinstance(bits, Mapping):
            unknown = set(bits) - {"weight", "activation", "kv"}
            if unknown or "weight" not in bits or "activation" not in bits:
                raise BadInputError(f"layer bits must have weight, activation and perhaps kv: got {sorted(bits)}")
            return cls(**bits)
        if isinstance(bits, int | str):
            return cls.parse(bits)
        raise BadInputError(f"layer bits must be a number, a form like w4a8, or an object: got {bits!r}")

    def __str__(self) -> str:
        if self.weight == self.activation == self.kv:
            return str(self.weight)
        kv = "" if self.kv == FULL_PRECISION else f"kv{self.kv}"
        return f"w{self.weight}a{self.activation}{kv}"
