"""A scheme says which quantizer a model uses where: for weights, input activations and the KV cache, by width.

A :class:`TensorScheme` is a quantizer, exceptions for some widths (``by_width``: a four-level grid at 2 bits, a
logarithmic one from 5 on), and an observer where ranges are static. A :class:`QuantizationScheme` has one for each kind
of tensor. The default is symmetric MinMax, per output channel for weights, per token for activations and the cache.

The numbers of a checkpoint depend on its scheme, so the scheme is stored with it, and
:attr:`QuantizationScheme.convention` names it in digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import torch

from qalof.errors import BadInputError
from qalof.laws import Law, Width, check_numbers
from qalof.layer_bits import GroupedWidth, WeightWidth, bits_of
from qalof.quantization.granularity import Granularity
from qalof.quantization.methods.lsq import Lsq
from qalof.quantization.methods.symmetric import Symmetric
from qalof.quantization.named_schemes import with_scheme
from qalof.quantization.observers import ObserverSpec
from qalof.quantization.quantizer import Quantizer
from qalof.quantization.quantizers import CONVENTION
from qalof.quantization.stored_size import StoredSize
from qalof.quantization.strict import check_keys, json_schema_of

ROLES = ("weight", "activation", "kv", "embedding")


@dataclass(frozen=True)
class TensorScheme:
    """How one kind of tensor is quantized."""

    quantizer: Quantizer
    """The quantizer at all bit-widths but those of ``by_width``."""
    by_width: Mapping[Width, Quantizer] = field(default_factory=dict)
    """Other quantizers for some bit-widths."""
    observer: ObserverSpec | None = None
    """How static ranges are found; with null, ranges are dynamic."""
    outlier_threshold: Annotated[float, Law(gt=0, off="null keeps none out; 6.0 is usual")] | None = None
    """The magnitude of an outlier, for activations only: a feature that reaches it in any real token of a row stays in
    fp16 in that row, and counts in no range (bitsandbytes' int8 has 6.0, and looks at all rows of a batch at once).
    Null keeps no feature out."""

    def __post_init__(self) -> None:
        check_numbers(self)

    def at(self, width: WeightWidth) -> Quantizer:
        """Return the quantizer of a width, in groups where the width has a group size.

        Raises:
            BadInputError: The method has no form in groups of any size.
        """
        quantizer: Quantizer = self.by_width.get(bits_of(width), self.quantizer)  # type: ignore[call-overload]
        if not isinstance(width, GroupedWidth) or bits_of(width) >= quantizer.full_precision_bits:
            return quantizer
        # every forward asks, and a quantizer checks its options when it is made; the key has plain numbers, because a
        # graph of torch.compile looks one up too
        key = (width.bits, width.group_size)
        if key not in self._grouped:
            self._grouped[key] = quantizer.in_groups(width.group_size)
        return self._grouped[key]

    @cached_property
    def _grouped(self) -> dict[tuple[float, int], Quantizer]:
        return {}

    @property
    def sees_rows(self) -> bool:
        """Whether tokens are rounded by more than their own values, so rows and padding must be known."""
        shared = any(quantizer.granularity is Granularity.TENSOR for quantizer in self.all())
        learned = any(isinstance(quantizer, Lsq) for quantizer in self.all())
        return shared or learned or self.observer is not None or self.outlier_threshold is not None

    @property
    def row_ranges(self) -> bool:
        """Whether a token is rounded by a dynamic range, or kept by outliers, of its whole row."""
        shared = any(q.granularity is Granularity.TENSOR and not isinstance(q, Lsq) for q in self.all())
        return (shared and self.observer is None) or self.outlier_threshold is not None

    def all(self) -> Iterator[Quantizer]:
        """Yield every quantizer of this scheme."""
        yield self.quantizer
        yield from self.by_width.values()

    def for_heads(self, head_size: int) -> Self:
        """Return this scheme with the group size of granularity head filled in."""
        by_width = {bits: quantizer.for_heads(head_size) for bits, quantizer in self.by_width.items()}
        return replace(self, quantizer=self.quantizer.for_heads(head_size), by_width=by_width)

    def token_size(self, features: int, bits: float, scales: int = 1) -> StoredSize:
        """Return the stored size of ``features`` numbers of one token at ``bits``.

        Learned steps and observed ranges outlive the token and are not part of it.  A dynamic range over the whole
        tensor counts in full, as if there were one token only; features kept as outliers are not counted.

        Args:
            features: the number of features of the token.
            bits: the bits of each feature.
            scales: how many equal parts of the token have a scale of their own, under granularity token.

        Raises:
            BadInputError: The quantizer does not have this width.
        """
        quantizer = self.at(bits)
        size = quantizer.stored_size(1, features, bits)
        if self.observer is not None or isinstance(quantizer, Lsq):
            return StoredSize(size.codes)
        parts = scales if quantizer.granularity is Granularity.TOKEN else 1
        return StoredSize(size.codes, parts * size.scales, parts * size.zero_points)

    def to_json(self) -> dict[str, Any]:
        """Return the whole scheme; :meth:`from_json` reads it back."""
        return {
            "quantizer": self.quantizer.to_json(),
            "by_width": {str(bits): quantizer.to_json() for bits, quantizer in self.by_width.items()},
            "observer": None if self.observer is None else self.observer.to_json(),
            "outlier_threshold": self.outlier_threshold,
        }

    @classmethod
    def from_json(cls, data: Any, what: str) -> Self:
        """Read the form of :meth:`to_json`.

        Raises:
            BadInputError: A key, a width or a quantizer does not exist.
        """
        if isinstance(data, cls):
            return data
        settings = check_keys(data, ("quantizer", "by_width", "observer", "outlier_threshold"), what)
        if "quantizer" not in settings:
            raise BadInputError(f"{what} must name its quantizer: got {sorted(settings)}")
        given = settings.get("by_width") or {}
        if isinstance(given, Mapping):  # YAML reads a bare 4 as a number; the keys of JSON are always text
            given = {str(bits): quantizer for bits, quantizer in given.items()}
        by_width = check_keys(given, [str(bits) for bits in range(2, 33)], f"{what}.by_width")
        observer = settings.get("observer")
        return cls(
            Quantizer.from_json(settings["quantizer"]),
            {int(bits): Quantizer.from_json(quantizer) for bits, quantizer in by_width.items()},
            None if observer is None else ObserverSpec.from_json(observer),
            settings.get("outlier_threshold"),
        )


_EMBEDDING = TensorScheme(Symmetric(granularity=Granularity.CHANNEL, scale_dtype="float16"))


@dataclass(frozen=True)
class QuantizationScheme:
    """The quantizers of a whole model.

    Raises:
        BadInputError: A quantizer does not fit the tensor that it is given for.
    """

    weight: TensorScheme = TensorScheme(Symmetric(granularity=Granularity.CHANNEL))
    """How weights are quantized, (out, in)."""
    activation: TensorScheme = TensorScheme(Symmetric(granularity=Granularity.TOKEN))
    """How the input of a layer is quantized, (..., tokens, features)."""
    kv: TensorScheme = TensorScheme(Symmetric(granularity=Granularity.TOKEN))
    """How keys, and values, are quantized as they leave their projection, before the split into heads."""
    widths: tuple[Width, ...] = ()
    """The bit-widths for which LSQ has steps, where a quantizer learns one step per width."""
    held: Literal["values", "codes", "packed", "int8"] = "values"
    """How frozen weights are kept once rounded. ``values``: as they are multiplied, 4 bytes per weight and width in
    fp32. ``codes``: as integers, 1 byte up to 8 bits, which each forward decodes to the same numbers. ``packed``: as in
    a packed file, b bits per weight, multiplied as integers where a kernel can. ``int8``: as values and codes, 5 bytes,
    of which the codes multiply in the forward pass, in training too."""
    embedding: TensorScheme = _EMBEDDING
    """How the input embedding (vocabulary, features) is quantized where it is a site, and with it a head that shares
    its weight."""

    def __post_init__(self) -> None:
        if self.held not in ("values", "codes", "packed", "int8"):
            raise BadInputError(f"held must be 'values', 'codes', 'packed' or 'int8': got {self.held!r}")
        check_numbers(self)
        if self.weight.observer is not None:
            raise BadInputError("a weight needs no observer, its range is its own: drop it, or take lsq to learn steps")
        for role in ("weight", "kv", "embedding"):
            if getattr(self, role).outlier_threshold is not None:
                raise BadInputError(f"outlier_threshold belongs to activations only: got it for {role}; drop it there")
        learned = any(isinstance(quantizer, Lsq) for quantizer in self.embedding.all())
        if learned or self.embedding.observer is not None:
            raise BadInputError(
                "an embedding is rounded by its own rows: got lsq or an observer for it; take symmetric"
            )
        for quantizer in (*self.weight.all(), *self.embedding.all()):
            if quantizer.granularity in (Granularity.TOKEN, Granularity.HEAD):
                raise BadInputError(
                    f"weights have channels, not tokens or heads: got granularity {quantizer.granularity}; "
                    "take channel, group or tensor"
                )
        _check_tokens(self.activation, "activation")
        _check_tokens(self.kv, "kv")

    @property
    def sees_rows(self) -> bool:
        """Whether inputs or keys and values are rounded by more than their own token."""
        return self.activation.sees_rows or self.kv.sees_rows

    def for_embedding(self) -> Self:
        """Return the scheme of an embedding's site, and of a head that is a site along with it; inputs have the
        default.
        """
        plain = type(self)()
        return replace(self, weight=self.embedding, activation=plain.activation, kv=plain.kv, widths=())

    @property
    def convention(self) -> str:
        """The name of what a code means: two models can be compared width by width only if their names are equal."""
        data = self.to_json()
        del data["held"]
        if data == {key: value for key, value in QuantizationScheme().to_json().items() if key != "held"}:
            return CONVENTION
        if self.activation.row_ranges:
            data["dynamic_range"] = "row"  # it was once that of the whole batch, and scores are stored by name
        return "scheme-" + hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Return the whole scheme; :meth:`from_json` reads it back."""
        roles = {role: getattr(self, role).to_json() for role in ROLES}
        if self.embedding == _EMBEDDING:
            # the default is left out, so earlier files, which do not know the key, are written alike
            del roles["embedding"]
        return roles | {"widths": list(self.widths), "held": self.held}

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read the form of :meth:`to_json`, or a name of :mod:`~qalof.quantization.named_schemes`; the rest is the
        default.

        Raises:
            BadInputError: A key or name does not exist, or a constructor refuses a value.
        """
        if isinstance(data, cls):
            return data
        settings = dict(check_keys(with_scheme(data), list(cls.__dataclass_fields__), "quantization"))
        for role in ROLES:
            if role in settings:
                settings[role] = TensorScheme.from_json(settings[role], f"quantization.{role}")
        if "widths" in settings:
            settings["widths"] = tuple(settings["widths"])
        return cls(**settings)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Let a pydantic model have a scheme as a field; only pydantic calls this."""
        return json_schema_of(cls.from_json)


def _check_tokens(scheme: TensorScheme, role: str) -> None:
    if scheme.outlier_threshold is not None and (scheme.observer or any(isinstance(q, Lsq) for q in scheme.all())):
        raise BadInputError(
            f"{role}: outlier_threshold takes values out of dynamic ranges only: got it with an observer or lsq"
        )
    for quantizer in scheme.all():
        granularity = quantizer.granularity
        if granularity is Granularity.CHANNEL:
            raise BadInputError(f"{role}: what has tokens is quantized per token, not per channel; take token")
        if isinstance(quantizer, Lsq):
            if scheme.observer is not None:
                raise BadInputError(f"{role}: lsq learns its steps and takes no observer; drop one of the two")
            if granularity is Granularity.TOKEN:
                raise BadInputError(f"{role}: a learned step outlives its tokens; take granularity tensor or group")
            if quantizer.gradient_count == "shared":
                raise BadInputError(
                    f"{role}: the gradient of an activation's step counts features, not tokens; "
                    "take gradient_count features"
                )
            continue
        if scheme.observer is None:
            if role == "kv" and granularity is Granularity.TENSOR:
                raise BadInputError(
                    "kv: one dynamic range for all tokens looks ahead, so that decoding with a cache would differ from "
                    "the full forward; take granularity token or head, or an observer"
                )
            continue
        if granularity is Granularity.TOKEN:
            raise BadInputError(f"{role}: a token's range is gone with it; with an observer take tensor, group or head")
        # methods that need more than a range say so themselves
        end = torch.ones(())
        quantizer.grid_of_range(-end, end, quantizer.only_bits or 4)
