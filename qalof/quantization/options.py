"""The options that all quantizers share, their laws, and their JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from qalof.errors import BadInputError, nearest_hint
from qalof.laws import Law, Positive
from qalof.layer_bits import FULL_PRECISION
from qalof.quantization.granularity import Granularity, check_divides, group_count
from qalof.quantization.stored_size import FLOAT_BYTES, StoredSize, code_bytes
from qalof.quantization.straight_through import StraightThrough
from qalof.quantization.strict import check_fields, check_keys, json_schema_of

HIGHEST_BITS = 16

GroupSize = Annotated[int, Law(ge=1, off="null for granularities other than group")]
"""How many elements share a scale."""


@dataclass(frozen=True, kw_only=True)
class QuantizerOptions:
    """The settings of a quantizer; equal settings are equal quantizers, and may be the key of a cache.

    Raises:
        BadInputError: An option does not exist or contradicts another.
    """

    granularity: Granularity = Granularity.CHANNEL
    """Which elements share a scale."""
    group_size: GroupSize | None = None
    """How many features share a scale under granularity ``group`` or ``head``; null is right for the other
    granularities, and under ``head`` it takes the model's head size."""
    require_divisible: bool = False
    """Whether a row that the group size does not divide is refused, as formats of other runtimes do."""
    ste: StraightThrough = StraightThrough.IDENTITY
    """Which gradient passes the rounding."""
    ste_limit: Positive = 2.0
    """The magnitude from which the estimator ``masked`` stops the gradient."""
    fractional_bits: Literal["round", "floor", "interpolate"] = "round"
    """What a bit-width between two whole ones means; see :mod:`qalof.quantization.quantizer`."""
    scale_dtype: Literal["float32", "float16"] = "float32"
    """The type of the scales in a packed file. The scale is rounded to it *before* the codes are made, so a packed file
    holds exactly what was fake-quantized. From 12 bits on fp16 resolves less than the codes do."""
    full_precision_bits: Annotated[int, Law(ge=2, le=FULL_PRECISION)] = FULL_PRECISION
    """The bit-width from which the tensor is left alone (16 in GGUF-like runs)."""

    method: ClassVar[str]
    """The name by which a config picks this quantizer."""
    lowest_bits: ClassVar[int] = 1
    """The lowest bit-width: 1, or 2 where the method has no one-bit form."""
    only_bits: ClassVar[int | None] = None
    """The one bit-width that the method has; None where it has many."""
    has_zero_point: ClassVar[bool] = False
    """Whether a stored group has a zero point, or another second number, alongside its scale."""
    scaled_codes: ClassVar[bool] = False
    """Whether a value is its code times the scale and nothing else, so that integer products serve."""

    registry: ClassVar[dict[str, type[QuantizerOptions]]] = {}
    """The quantizers by the names of their methods."""

    def __init_subclass__(cls, *, method: str | None = None) -> None:
        if method is not None:
            cls.method = method
            cls.registry[method] = cls

    def __post_init__(self) -> None:
        check_fields(self, f"quantizer {self.method}")
        if self.granularity is Granularity.GROUP and self.group_size is None:
            raise BadInputError("granularity group must have a group_size: got none; 32, 64 or 128 are usual")
        if not self.granularity.grouped and self.group_size is not None:
            raise BadInputError(
                f"group_size belongs to granularity group or head: got {self.group_size} with {self.granularity}"
            )

    def check_bits(self, bits: float) -> None:
        """Refuse a width that this method does not have.

        Raises:
            BadInputError: The width does not exist; the message names those that do.
        """
        if self.only_bits is not None and bits != self.only_bits:
            raise BadInputError(f"quantizer {self.method} has {self.only_bits} bits only: got {bits}")
        if not (2 <= bits <= HIGHEST_BITS or bits == self.lowest_bits):
            one = "1 or " if self.lowest_bits == 1 else ""
            raise BadInputError(
                f"bits must be {one}from 2 to {HIGHEST_BITS}, or {self.full_precision_bits} for full precision: "
                f"got {bits}"
            )

    def check_shape(self, features: int) -> None:
        """Refuse rows of ``features`` that cannot be grouped as the options ask.

        Raises:
            BadInputError: The head size is not known, or strict groups do not divide the row.
        """
        if not self.granularity.grouped:
            return
        if self.group_size is None:
            raise BadInputError("granularity head needs the model's head size: none is set; use for_heads(head_size)")
        if self.require_divisible or self.granularity is Granularity.HEAD:
            check_divides(self.group_size, features)

    @property
    def scale_bytes(self) -> int:
        """The size of a stored scale in bytes."""
        return 4 if self.scale_dtype == "float32" else 2

    @property
    def zero_point_bytes(self) -> int:
        """The size of a stored zero point in bytes; 0 where the method has none."""
        return self.scale_bytes if self.has_zero_point else 0

    def scale_count(self, rows: int, columns: int) -> int:
        """Return how many scales a (rows, columns) tensor has."""
        if self.granularity is Granularity.TENSOR:
            return 1
        return rows * (group_count(columns, self.group_size or columns) if self.granularity.grouped else 1)

    def stored_size(self, rows: int, columns: int, bits: float) -> StoredSize:
        """Return the size in bytes of a (rows, columns) tensor stored at ``bits``, without storing it.

        Pass-through counts fp32.

        Raises:
            BadInputError: This method does not have the width, or the width has no codes
                (``fractional_bits: interpolate``).
        """
        if bits >= self.full_precision_bits:
            return StoredSize(rows * columns * FLOAT_BYTES)
        self.check_bits(bits)
        if self.fractional_bits == "interpolate" and bits != int(bits):
            raise BadInputError(f"mixed widths have no codes to store: got {bits} bits; take a whole width")
        count = self.scale_count(rows, columns)
        return StoredSize(code_bytes(rows, columns, bits), count * self.scale_bytes, count * self.zero_point_bytes)

    def for_heads(self, head_size: int) -> Self:
        """Return this quantizer with the group size of granularity head filled in; others come back as they are."""
        if self.granularity is not Granularity.HEAD or self.group_size is not None:
            return self
        return replace(self, group_size=head_size)

    def in_groups(self, group_size: int) -> Self:
        """Return this quantizer with granularity ``group`` and that size, whatever granularity it has.

        Raises:
            BadInputError: The method has no form whose scales are of groups of any size.
        """
        if self.granularity is Granularity.GROUP and self.group_size == group_size:
            return self
        return replace(self, granularity=Granularity.GROUP, group_size=group_size)

    def to_json(self) -> dict[str, Any]:
        """Return ``method`` and all options."""
        return {"method": self.method} | asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read the form of :meth:`to_json`, or a method's name alone; a quantizer comes back as it is.

        Raises:
            BadInputError: A method or option is unknown, or an option has a value that it may not have.
        """
        if isinstance(data, cls):
            return data
        options = dict(data) if isinstance(data, Mapping) else {"method": data}
        method = options.pop("method", None)
        kind = cls.registry.get(str(method))
        if kind is None or not issubclass(kind, cls):
            raise BadInputError(f"no quantizer {method!r}; {nearest_hint(str(method), cls.registry)}")
        return kind(**check_keys(options, [field.name for field in fields(kind)], f"quantizer {method}"))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Let a pydantic model have a quantizer as a field; only pydantic calls this."""
        return json_schema_of(cls.from_json)
