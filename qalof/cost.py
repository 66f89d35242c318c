"""What a bitmap costs: bits, bytes, bit operations, cache.

Functions of plain values (sites and a bitmap), so that a search can price millions of maps without a
model.  Formulas: algorithms.md 7, "Costs".  Packed weights are dense rows, byte-aligned, with one fp16 scale an
output channel; a pass-through weight is counted as fp32 without a scale.

:class:`Cost` is what a bitmap can change and is per bitmap; :class:`Storage` puts adapters and everything that is
never quantized beside it, on lines of their own, since a budget on weights should not hide them.  A tied head that
is quantized as a view takes two copies, the packed one in the weights and the embedding among the unquantized; at
32 bits it is the embedding itself, and the second copy is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.layer_bits import PASS_THROUGH
from qalof.model.sites import Site, Unquantized

SCALE_BYTES = 2
FLOAT_BYTES = 4
FLOAT_BITS = 32


@dataclass(frozen=True)
class Cost:
    """Cost of one bitmap.

    ``average_bits``: weight bits, weighted by parameters, over quantizable sites; ``weight_bytes``: packed
    weights of these sites with scales; ``kv_bytes_per_token``: keys and values with scales;
    ``bit_operations_per_token``: sum of MACs times weight bits times activation bits;
    ``activation_bytes_per_token``: inputs of all sites with scales.
    """

    average_bits: float
    weight_bytes: int
    kv_bytes_per_token: int
    bit_operations_per_token: int
    activation_bytes_per_token: int

    def as_metrics(self) -> dict[str, float]:
        """Field name -> value, for records."""
        return {name: float(value) for name, value in asdict(self).items()}


COST_NAMES = tuple(Cost.__dataclass_fields__)


@dataclass(frozen=True)
class Storage:
    """Bytes of a stored model at one bitmap.

    ``weight_bytes``: as in :class:`Cost`, less a head that is the embedding; ``adapter_bytes``: all adapters in fp32,
    their norm copies included; ``unquantized_bytes``: embeddings, norms, biases and heads that are no sites, in fp32.
    """

    weight_bytes: int
    adapter_bytes: int
    unquantized_bytes: int

    @property
    def total_bytes(self) -> int:
        """All three lines."""
        return self.weight_bytes + self.adapter_bytes + self.unquantized_bytes


def weight_bytes(site: Site, bits: int) -> int:
    """Packed bytes of one site's weight at ``bits``, scales included."""
    if bits == PASS_THROUGH:
        return site.weights * FLOAT_BYTES
    return site.out_features * (-(-site.in_features * bits // 8) + SCALE_BYTES)


def activation_bytes(site: Site, bits: int) -> int:
    """Bytes of one token's input to a site at ``bits``, its scale included."""
    if bits == PASS_THROUGH:
        return site.in_features * FLOAT_BYTES
    return -(-site.in_features * bits // 8) + SCALE_BYTES


def kv_bytes(site: Site, bits: int) -> int:
    """Bytes that one token adds to the KV cache through this site at ``bits``, scales included."""
    if site.kv is None or bits == PASS_THROUGH:
        return site.kv_features * FLOAT_BYTES
    part = -(-site.kv.heads * site.kv.head_dim * bits // 8)
    return len(site.kv.parts) * (part + SCALE_BYTES * site.kv.scales)


def bit_operations(site: Site, weight: int, activation: int, kv: int, context: int = 0) -> int:
    """Bit operations of one token at a site: MACs times the bits of both factors.

    With a ``context`` of T tokens, each of keys and values adds T MACs a query feature; the other factor there,
    a query or a probability, is not quantized.
    """
    attended = context * site.kv.query_features * len(site.kv.parts) if site.kv else 0
    return site.weights * weight * activation + attended * kv * FLOAT_BITS


def cost_of(bitmap: Bitmap, sites: Sequence[Site], context: int = 0) -> Cost:
    """Price ``bitmap`` on ``sites``; ``context``: how many tokens each one attends to, 0 to leave attention out.

    Raises:
        BadInputError: the bitmap does not name exactly these sites.
    """
    _check_sites(bitmap, sites)
    pairs = [(site, bitmap[site.name]) for site in sites]
    total = sum(site.weights for site in sites)
    return Cost(
        average_bits=sum(site.weights * bits.weight for site, bits in pairs) / total,
        weight_bytes=sum(weight_bytes(site, bits.weight) for site, bits in pairs),
        kv_bytes_per_token=sum(kv_bytes(site, bits.kv) for site, bits in pairs),
        bit_operations_per_token=sum(bit_operations(s, b.weight, b.activation, b.kv, context) for s, b in pairs),
        activation_bytes_per_token=sum(activation_bytes(site, bits.activation) for site, bits in pairs),
    )


def storage_of(bitmap: Bitmap, sites: Sequence[Site], unquantized: Unquantized, adapter_parameters: int = 0) -> Storage:
    """Bytes of a model stored at ``bitmap``.

    Args:
        bitmap: names exactly ``sites``.
        sites: the model's.
        unquantized: the parameters beside them.
        adapter_parameters: of all adapters together.

    Raises:
        BadInputError: the bitmap does not name exactly these sites.
    """
    _check_sites(bitmap, sites)
    packed = sum(weight_bytes(site, bitmap[site.name].weight) for site in sites)
    view = [site for site in sites if site.is_head and unquantized.head_view]
    shared = sum(site.weights for site in view if bitmap[site.name].weight == PASS_THROUGH)
    return Storage(
        packed - FLOAT_BYTES * shared, FLOAT_BYTES * adapter_parameters, FLOAT_BYTES * unquantized.parameters
    )


def _check_sites(bitmap: Bitmap, sites: Sequence[Site]) -> None:
    if set(bitmap) != {site.name for site in sites}:
        raise BadInputError(
            f"a bitmap must name the model's {len(sites)} sites to be priced: it names {len(bitmap)} others"
        )
