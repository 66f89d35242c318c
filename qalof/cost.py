"""The cost of a bitmap: bits, bytes, bit operations and cache.

Functions of plain values (sites and a bitmap), so a search can compute the costs of millions of bitmaps without a
model. The formulas are in docs/methods/cost.md. Bytes are those of the packed file (:mod:`qalof.export.packed`),
exactly: each site knows its quantizers, and these say what they store
(:meth:`qalof.quantization.options.QuantizerOptions.stored_size`).  A pass-through weight is counted as fp32.

:class:`Cost` is what a bitmap can change and is per bitmap.  ``weight_bytes`` are the sites' weights alone.  Where it
is known what a model holds beside its sites (:class:`Rest`), ``adapter_bytes`` are the adapters that this bitmap runs,
on a line of their own, and ``total_bytes`` is the whole packed model.  :class:`Storage` has these lines by themselves.
A tied head that is quantized as a view takes two copies, the packed one in the weights and the embedding among the
unquantized; at 32 bits it is the embedding itself, and totals do not count the second copy.

Every cost adds up over sites: :mod:`qalof.site_cost` says what one site adds at one choice, and :func:`cost_of` is the
sum of these together with what no bitmap changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.latency import LATENCY, LatencyTable, seconds
from qalof.layer_bits import FLOAT_BYTES
from qalof.site import Site, Unquantized
from qalof.site_cost import (
    Rest,
    SiteCost,
    activation_bytes,
    bit_operations,
    in_full_precision,
    kv_bytes,
    shared_bytes,
    site_cost,
    weight_bytes,
    why_unknown,
)


@dataclass(frozen=True)
class Cost:
    """Cost of one bitmap.

    ``average_bits``: weight bits, weighted by parameters, over quantizable sites; ``weight_bytes``: packed
    weights of these sites with scales and zero points; ``kv_bytes_per_token``: keys and values with scales;
    ``bit_operations_per_token``: sum of MACs times weight bits times activation bits;
    ``activation_bytes_per_token``: inputs of all sites with scales; ``adapter_bytes``: the adapters that the bitmap
    runs, in fp32; ``total_bytes``: all tensors of the packed model; these two are None where only sites are known.
    ``latency_seconds``: what the sites take, as a table of measured latencies says; None without one.
    """

    average_bits: float
    weight_bytes: int
    kv_bytes_per_token: int
    bit_operations_per_token: int
    activation_bytes_per_token: int
    adapter_bytes: int | None = None
    total_bytes: int | None = None
    latency_seconds: float | None = None

    def value(self, name: str) -> float:
        """Return the cost of that name.

        Raises:
            BadInputError: The cost is not known, since it is measured or counts what the model holds beside sites.
        """
        value: float | None = getattr(self, name)
        if value is None:
            raise BadInputError(why_unknown(name))
        return float(value)

    def as_metrics(self) -> dict[str, float]:
        """Return field name -> value, for records, without what is not known."""
        return {name: float(value) for name, value in self.to_json().items()}

    def to_json(self) -> dict[str, float | int]:
        """Return field name -> value, without what is not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


COST_NAMES = tuple(Cost.__dataclass_fields__)
MODEL_COSTS = tuple(name for name in COST_NAMES if name != LATENCY)
"""The costs that are known of every model; what is left is measured."""


@dataclass(frozen=True)
class Storage:
    """Bytes of a stored model at one bitmap.

    ``weight_bytes``: as in :class:`Cost`, less a head that is the embedding; ``adapter_bytes``: all adapters in fp32,
    their norm copies included; ``unquantized_bytes``: embeddings, norms, biases and heads that are no sites, in fp32;
    ``quantizer_bytes``: learned steps and observed ranges of inputs and cache.
    """

    weight_bytes: int
    adapter_bytes: int
    unquantized_bytes: int
    quantizer_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """The sum of all four lines, in bytes."""
        return self.weight_bytes + self.adapter_bytes + self.unquantized_bytes + self.quantizer_bytes


def average_bits(bitmap: Bitmap, sites: Sequence[Site]) -> float:
    """Return the weight bits, averaged with the number of parameters as weights.

    Raises:
        BadInputError: The bitmap does not name exactly these sites.
    """
    _check_sites(bitmap, sites)
    return sum(site.weights * bitmap[site.name].weight for site in sites) / sum(site.weights for site in sites)


def cost_of(
    bitmap: Bitmap,
    sites: Sequence[Site],
    context: int = 0,
    rest: Rest | None = None,
    latency: LatencyTable | None = None,
) -> Cost:
    """Compute the cost of ``bitmap`` on ``sites``: the sum of :func:`site_cost` with what no bitmap changes.

    Args:
        bitmap: names exactly ``sites``.
        sites: the model's, which know their quantizers.
        context: how many tokens each one attends to, 0 to leave attention out.
        rest: what the model holds alongside them; without it ``adapter_bytes`` and ``total_bytes`` are not known.
        latency: the measured latencies of the sites; without it ``latency_seconds`` is not known.

    Raises:
        BadInputError: the bitmap does not name exactly these sites, gives one a width that its quantizers lack, or one
            of which the latency is not known.
    """
    _check_sites(bitmap, sites)
    first, *others = (site_cost(site, bitmap[site.name], context, rest, latency) for site in sites)
    added = sum(others, first)
    return Cost(
        average_bits=added.weight_bits / sum(site.weights for site in sites),
        weight_bytes=added.weight_bytes,
        kv_bytes_per_token=added.kv_bytes_per_token,
        bit_operations_per_token=added.bit_operations_per_token,
        activation_bytes_per_token=added.activation_bytes_per_token,
        adapter_bytes=added.adapter_bytes,
        total_bytes=None if rest is None or added.total_bytes is None else added.total_bytes + rest.nbytes,
        latency_seconds=None if added.latency_seconds is None else seconds(added.latency_seconds),
    )


def packed_storage(bitmap: Bitmap, sites: Sequence[Site], rest: Rest, float_bytes: int = FLOAT_BYTES) -> Storage:
    """Return the bytes of a model packed at ``bitmap``, with the adapters that it runs there and no others.

    Args:
        bitmap: names exactly ``sites``.
        sites: the model's.
        rest: what the model holds alongside them.
        float_bytes: of a number that is not quantized; adapters and learned steps stay in fp32.

    Raises:
        BadInputError: as :func:`cost_of`.
    """
    _check_sites(bitmap, sites)
    widths = [(site, bitmap[site.name].weight_width) for site in sites]
    shared = sum(shared_bytes(site, width, rest.unquantized, rest.merged_widths) for site, width in widths)
    packed = sum(weight_bytes(site, width) for site, width in widths) - shared
    whole = sum(weight_bytes(site, width) for site, width in widths if in_full_precision(site, width)) - shared
    return Storage(
        packed - whole + whole // FLOAT_BYTES * float_bytes,
        sum(rest.adapter_bytes(site, bitmap[site.name].weight) for site in sites),
        float_bytes * rest.unquantized.parameters + rest.unquantized.buffer_bytes,
        rest.quantizer_bytes,
    )


def storage_of(bitmap: Bitmap, sites: Sequence[Site], unquantized: Unquantized, adapter_parameters: int = 0) -> Storage:
    """Return the bytes of a model stored at ``bitmap`` with all its adapters.

    Args:
        bitmap: names exactly ``sites``.
        sites: the model's.
        unquantized: the parameters alongside them.
        adapter_parameters: of all adapters together.

    Raises:
        BadInputError: as :func:`cost_of`.
    """
    _check_sites(bitmap, sites)
    widths = [(site, bitmap[site.name].weight_width) for site in sites]
    return Storage(
        sum(weight_bytes(site, width) - shared_bytes(site, width, unquantized) for site, width in widths),
        FLOAT_BYTES * adapter_parameters,
        FLOAT_BYTES * unquantized.parameters + unquantized.buffer_bytes,
    )


def _check_sites(bitmap: Bitmap, sites: Sequence[Site]) -> None:
    if set(bitmap) != {site.name for site in sites}:
        raise BadInputError(
            f"a bitmap must name the model's {len(sites)} sites to be priced: it names {len(bitmap)} others"
        )


__all__ = [
    "COST_NAMES",
    "FLOAT_BYTES",
    "MODEL_COSTS",
    "Cost",
    "Rest",
    "SiteCost",
    "Storage",
    "activation_bytes",
    "average_bits",
    "bit_operations",
    "cost_of",
    "kv_bytes",
    "packed_storage",
    "site_cost",
    "storage_of",
    "weight_bytes",
]
