"""What a bitmap costs: bits, bytes, bit operations, cache.

Functions of plain values (sites and a bitmap), so that a search can price millions of maps without a
model.  Formulas: algorithms.md 7, "Costs".  Packed weights are dense rows, byte-aligned, with one fp16 scale an
output channel; a pass-through weight is counted as fp32 without a scale.  Adapters and everything that is
never quantized stand on lines of their own, since a budget on weights should not hide them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from qalof.bitmap import PASS_THROUGH, Bitmap
from qalof.errors import BadInputError
from qalof.model.sites import Site

SCALE_BYTES = 2
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Cost:
    """Cost of one bitmap.

    ``average_bits``: weight bits, weighted by parameters, over quantizable sites; ``weight_bytes``: packed
    weights of these sites with scales; ``kv_bytes_per_token``: keys and values with scales;
    ``bit_operations_per_token``: sum of MACs times weight bits times activation bits.
    """

    average_bits: float
    weight_bytes: int
    kv_bytes_per_token: int
    bit_operations_per_token: int

    def as_metrics(self) -> dict[str, float]:
        """Field name -> value, for records."""
        return {name: float(value) for name, value in asdict(self).items()}


COST_NAMES = tuple(Cost.__dataclass_fields__)


def weight_bytes(site: Site, bits: int) -> int:
    """Packed bytes of one site's weight at ``bits``, scales included."""
    if bits == PASS_THROUGH:
        return site.weights * FLOAT_BYTES
    return site.out_features * (-(-site.in_features * bits // 8) + SCALE_BYTES)


def kv_bytes(site: Site, bits: int) -> int:
    """Bytes that one token adds to the KV cache through this site at ``bits``, scales included."""
    if bits == PASS_THROUGH or not site.kv_features:
        return site.kv_features * FLOAT_BYTES
    return -(-site.kv_features * bits // 8) + SCALE_BYTES * len(site.kv_slices)


def cost_of(bitmap: Bitmap, sites: Sequence[Site]) -> Cost:
    """Price ``bitmap`` on ``sites``.

    Raises:
        BadInputError: the bitmap does not name exactly these sites.
    """
    if set(bitmap) != {site.name for site in sites}:
        raise BadInputError(
            f"a bitmap must name the model's {len(sites)} sites to be priced: it names {len(bitmap)} others"
        )
    pairs = [(site, bitmap[site.name]) for site in sites]
    total = sum(site.weights for site in sites)
    return Cost(
        average_bits=sum(site.weights * bits.weight for site, bits in pairs) / total,
        weight_bytes=sum(weight_bytes(site, bits.weight) for site, bits in pairs),
        kv_bytes_per_token=sum(kv_bytes(site, bits.kv) for site, bits in pairs),
        bit_operations_per_token=sum(site.weights * bits.weight * bits.activation for site, bits in pairs),
    )
