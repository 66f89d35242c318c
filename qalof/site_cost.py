"""What one site adds to the costs of a bitmap, and what no bitmap changes.

Every cost of :mod:`qalof.cost` is a sum over sites: :func:`site_cost` is what a site adds at one choice, in whole
numbers, and :class:`Rest` knows the constant that a whole model adds.  So a knapsack over sites, or over units of
sites, is exact: the cost of a bitmap is the sum of its :class:`SiteCost` and that constant.  The one cost that is a
mean, ``average_bits``, is the sum of ``weight_bits`` divided by the number of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from qalof.errors import BadInputError
from qalof.latency import LATENCY, LatencyTable
from qalof.layer_bits import FLOAT_BYTES, FULL_PRECISION, KvWidth, LayerBits, WeightWidth, bits_of
from qalof.site import Site, Unquantized

FLOAT_BITS = 32


@dataclass(frozen=True)
class Rest:
    """What a packed model holds alongside the weights of its sites.

    Attributes:
        unquantized: embeddings, norms, biases, and heads that are no sites; fp32.
        adapter_ranks: weight width -> rank of the adapter that a site of this width is packed with; 0 for none.
        merged_widths: the weight widths at which an adapter is in the weight, so a tied head differs from the embedding
            there.
        quantizer_bytes: learned steps and observed ranges of inputs and cache.
    """

    unquantized: Unquantized
    adapter_ranks: Mapping[int, int] = field(default_factory=dict)
    merged_widths: frozenset[int] = frozenset()
    quantizer_bytes: int = 0

    @property
    def nbytes(self) -> int:
        """The bytes that no bitmap changes."""
        return FLOAT_BYTES * self.unquantized.parameters + self.unquantized.buffer_bytes + self.quantizer_bytes

    def adapter_bytes(self, site: Site, bits: int) -> int:
        """Return the bytes of the branch that is packed with ``site`` at ``bits``."""
        rank = self.adapter_ranks.get(bits, 0) if site.has_adapter else 0
        return FLOAT_BYTES * rank * (site.in_features + site.out_features)


@dataclass(frozen=True)
class SiteCost:
    """What one site, or the sites of a unit together, add to the costs of a bitmap; all are whole numbers.

    ``weight_bits``: the bits of the codes of the weights, which ``average_bits`` divides by the number of weights;
    ``total_bytes``: less what no bitmap changes (:attr:`Rest.nbytes`); ``latency_seconds``: in nanoseconds; the other
    fields are as in :class:`Cost`. What is not known is None.
    """

    weight_bits: int
    weight_bytes: int
    kv_bytes_per_token: int
    bit_operations_per_token: int
    activation_bytes_per_token: int
    adapter_bytes: int | None = None
    total_bytes: int | None = None
    latency_seconds: int | None = None

    def __add__(self, other: SiteCost) -> SiteCost:
        pairs = {each.name: (getattr(self, each.name), getattr(other, each.name)) for each in fields(self)}
        added: dict[str, Any] = {name: None if None in pair else sum(pair) for name, pair in pairs.items()}
        return SiteCost(**added)

    def value(self, name: str) -> int:
        """Return what adds up to the cost of that name: for ``average_bits`` that is ``weight_bits``, and for
        ``latency_seconds`` nanoseconds.

        Raises:
            BadInputError: The cost is not known, since it is measured or counts what the model holds beside sites.
        """
        value: int | None = getattr(self, "weight_bits" if name == "average_bits" else name)
        if value is None:
            raise BadInputError(why_unknown(name))
        return value


def why_unknown(name: str) -> str:
    """Return why a cost may not be known, and what to do."""
    if name == LATENCY:
        return f"{name} is measured: there is no latency table here; `qalof profile` with measures=[latency] writes one"
    return f"{name} is known of a whole model: this cost is of sites alone; price the model"


def site_cost(
    site: Site, bits: LayerBits, context: int = 0, rest: Rest | None = None, latency: LatencyTable | None = None
) -> SiteCost:
    """Return what ``site`` adds to every cost of a bitmap that gives it ``bits``.

    Args:
        site: one of the model's, which knows its quantizers.
        bits: its choice.
        context: how many tokens each one attends to, 0 to leave attention out.
        rest: what the model holds alongside its sites; without it ``adapter_bytes`` and ``total_bytes`` are not known.
        latency: measured latencies, without which ``latency_seconds`` is not known.

    Raises:
        BadInputError: The choice has a width or a group size that the site's quantizers or the latencies lack.
    """
    width = bits.weight_width
    packed = weight_bytes(site, width)
    adapters = None if rest is None else rest.adapter_bytes(site, bits.weight)
    total = None
    if rest is not None and adapters is not None:
        total = packed + adapters - shared_bytes(site, width, rest.unquantized, rest.merged_widths)
    return SiteCost(
        weight_bits=site.weights * bits.weight,
        weight_bytes=packed,
        kv_bytes_per_token=kv_bytes(site, bits.kv),
        bit_operations_per_token=bit_operations(site, bits.weight, bits.activation, bits.kv, context),
        activation_bytes_per_token=activation_bytes(site, bits.activation),
        adapter_bytes=adapters,
        total_bytes=total,
        latency_seconds=None if latency is None else latency.of(site, bits),
    )


def weight_bytes(site: Site, width: WeightWidth) -> int:
    """Return the packed bytes of one site's weight at ``width``, scales and zero points included.

    Raises:
        BadInputError: a width or group size that the site's quantizer does not have.
    """
    quantizer = site.quantization.weight.at(width)
    if bits_of(width) < quantizer.full_precision_bits:
        quantizer.check_shape(site.in_features)
    return quantizer.stored_size(site.out_features, site.in_features, bits_of(width)).total


def activation_bytes(site: Site, bits: int) -> int:
    """Return the bytes of one token's input to a site at ``bits``, with the scales of the token; 0 for a look-up.

    Raises:
        BadInputError: a width that the site's quantizer does not have.
    """
    if site.is_embedding:
        return 0
    return site.quantization.activation.token_size(site.in_features, bits).total


def kv_bytes(site: Site, width: KvWidth) -> int:
    """Return the bytes that one token adds to the KV cache through this site at ``width``, scales and zero points
    included.

    Raises:
        BadInputError: a width that the site's quantizer does not have.
    """
    if site.kv is None:
        return 0
    features, scales = site.kv.heads * site.kv.head_dim, site.kv.scales
    cache = site.quantization.kv.for_heads(site.kv.head_dim)

    def part(bits: int) -> int:
        return features * FLOAT_BYTES if bits == FULL_PRECISION else cache.token_size(features, bits, scales).total

    return sum(map(part, site.kv.widths(width)))


def bit_operations(site: Site, weight: int, activation: int, kv: KvWidth, context: int = 0) -> int:
    """Return the bit operations of one token at a site: MACs times the bits of both factors.

    With a ``context`` of T tokens, each of keys and values adds T MACs per query feature, at its own bits; the other
    factor there, a query or a probability, is not quantized.  A look-up in an embedding multiplies nothing.
    """
    if site.is_embedding:
        return 0
    attended = context * site.kv.query_features if site.kv else 0
    return site.weights * weight * activation + attended * sum(site.kv_widths(kv)) * FLOAT_BITS


def shared_bytes(
    site: Site, width: WeightWidth, unquantized: Unquantized, merged_widths: frozenset[int] = frozenset()
) -> int:
    """Return the bytes of a head that is the embedding itself at this width, which are counted there."""
    view = site.is_head and unquantized.head_view and in_full_precision(site, width)
    merged = site.has_adapter and bits_of(width) in merged_widths
    return FLOAT_BYTES * site.weights if view and not merged else 0


def in_full_precision(site: Site, width: WeightWidth) -> bool:
    """Return whether a weight at ``width`` is stored as it is."""
    return bits_of(width) >= site.quantization.weight.at(width).full_precision_bits
