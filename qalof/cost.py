"""The cost of a bitmap: bits, bytes, bit operations and cache.

Functions of plain values (sites and a bitmap), so a search can compute the costs of millions of bitmaps without a
model. The formulas are in docs/methods/cost.md. Bytes are those of the packed file (:mod:`qalof.export.packed`),
exactly: each site knows its quantizers, and these say what they store
(:meth:`qalof.quantization.options.QuantizerOptions.stored_size`).  A full precision weight is counted as fp32.

:class:`Cost` is what a bitmap can change and is per bitmap.  ``weight_bytes`` are the sites' weights alone.  Where it
is known what a model holds beside its sites (:class:`Rest`), ``adapter_bytes`` are the adapters that this bitmap runs,
on a line of their own, and ``total_bytes`` is the whole packed model.  :class:`Storage` has these lines by themselves.
A tied head that is quantized as a view takes two copies, the packed one in the weights and the embedding among the
unquantized; at 32 bits it is the embedding itself, and totals do not count the second copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.layer_bits import FULL_PRECISION
from qalof.quantization.stored_size import FLOAT_BYTES
from qalof.site import Site, Unquantized

FLOAT_BITS = 32


@dataclass(frozen=True)
class Cost:
    """Cost of one bitmap.

    ``average_bits``: weight bits, weighted by parameters, over quantizable sites; ``weight_bytes``: packed
    weights of these sites with scales and zero points; ``kv_bytes_per_token``: keys and values with scales;
    ``bit_operations_per_token``: sum of MACs times weight bits times activation bits;
    ``activation_bytes_per_token``: inputs of all sites with scales; ``adapter_bytes``: the adapters that the bitmap
    runs, in fp32; ``total_bytes``: all tensors of the packed model.  The last two are None where only sites are known.
    """

    average_bits: float
    weight_bytes: int
    kv_bytes_per_token: int
    bit_operations_per_token: int
    activation_bytes_per_token: int
    adapter_bytes: int | None = None
    total_bytes: int | None = None

    def value(self, name: str) -> float:
        """Return the cost of that name.

        Raises:
            BadInputError: The cost is not known, since it counts what the model holds alongside its sites.
        """
        value: float | None = getattr(self, name)
        if value is None:
            raise BadInputError(f"{name} is known of a whole model: this cost is of sites alone; price the model")
        return float(value)

    def as_metrics(self) -> dict[str, float]:
        """Field name -> value, for records; without what is not known."""
        return {name: float(value) for name, value in self.to_json().items()}

    def to_json(self) -> dict[str, float | int]:
        """Field name -> value; without what is not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


COST_NAMES = tuple(Cost.__dataclass_fields__)


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


def weight_bytes(site: Site, bits: int) -> int:
    """Packed bytes of one site's weight at ``bits``, scales and zero points included.

    Raises:
        BadInputError: a width that the site's quantizer does not have.
    """
    return site.quantization.weight.at(bits).stored_size(site.out_features, site.in_features, bits).total


def activation_bytes(site: Site, bits: int) -> int:
    """Return the bytes of one token's input to a site at ``bits``, with the scales of the token; 0 for a look-up.

    Raises:
        BadInputError: a width that the site's quantizer does not have.
    """
    if site.is_embedding:
        return 0
    return site.quantization.activation.token_size(site.in_features, bits).total


def kv_bytes(site: Site, bits: int) -> int:
    """Return the bytes that one token adds to the KV cache through this site at ``bits``, scales and zero points
    included.

    Raises:
        BadInputError: a width that the site's quantizer does not have.
    """
    if site.kv is None or bits == FULL_PRECISION:
        return site.kv_features * FLOAT_BYTES
    cache = site.quantization.kv.for_heads(site.kv.head_dim)
    return len(site.kv.parts) * cache.token_size(site.kv.heads * site.kv.head_dim, bits, site.kv.scales).total


def bit_operations(site: Site, weight: int, activation: int, kv: int, context: int = 0) -> int:
    """Return the bit operations of one token at a site: MACs times the bits of both factors.

    With a ``context`` of T tokens, each of keys and values adds T MACs per query feature; the other factor there, a
    query or a probability, is not quantized.  A look-up in an embedding multiplies nothing.
    """
    if site.is_embedding:
        return 0
    attended = context * site.kv.query_features * len(site.kv.parts) if site.kv else 0
    return site.weights * weight * activation + attended * kv * FLOAT_BITS


def average_bits(bitmap: Bitmap, sites: Sequence[Site]) -> float:
    """Return the weight bits, averaged with the number of parameters as weights.

    Raises:
        BadInputError: The bitmap does not name exactly these sites.
    """
    _check_sites(bitmap, sites)
    return sum(site.weights * bitmap[site.name].weight for site in sites) / sum(site.weights for site in sites)


def cost_of(bitmap: Bitmap, sites: Sequence[Site], context: int = 0, rest: Rest | None = None) -> Cost:
    """Compute the cost of ``bitmap`` on ``sites``.

    Args:
        bitmap: names exactly ``sites``.
        sites: the model's, which know their quantizers.
        context: how many tokens each one attends to, 0 to leave attention out.
        rest: what the model holds alongside them; without it ``adapter_bytes`` and ``total_bytes`` are not known.

    Raises:
        BadInputError: the bitmap does not name exactly these sites, or gives one a width that its quantizers lack.
    """
    mean = average_bits(bitmap, sites)
    pairs = [(site, bitmap[site.name]) for site in sites]
    stored = None if rest is None else packed_storage(bitmap, sites, rest)
    return Cost(
        average_bits=mean,
        weight_bytes=sum(weight_bytes(site, bits.weight) for site, bits in pairs),
        kv_bytes_per_token=sum(kv_bytes(site, bits.kv) for site, bits in pairs),
        bit_operations_per_token=sum(bit_operations(s, b.weight, b.activation, b.kv, context) for s, b in pairs),
        activation_bytes_per_token=sum(activation_bytes(site, bits.activation) for site, bits in pairs),
        adapter_bytes=None if stored is None else stored.adapter_bytes,
        total_bytes=None if stored is None else stored.total_bytes,
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
    widths = [(site, bitmap[site.name].weight) for site in sites]
    packed = sum(weight_bytes(site, bits) for site, bits in widths)
    packed -= _shared_bytes(bitmap, sites, rest.unquantized, rest.merged_widths)
    whole = sum(weight_bytes(site, bits) for site, bits in widths if _passes_through(site, bits))
    whole -= _shared_bytes(bitmap, sites, rest.unquantized, rest.merged_widths)
    return Storage(
        packed - whole + whole // FLOAT_BYTES * float_bytes,
        sum(rest.adapter_bytes(site, bits) for site, bits in widths),
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
    packed = sum(weight_bytes(site, bitmap[site.name].weight) for site in sites)
    return Storage(
        packed - _shared_bytes(bitmap, sites, unquantized),
        FLOAT_BYTES * adapter_parameters,
        FLOAT_BYTES * unquantized.parameters + unquantized.buffer_bytes,
    )


def _shared_bytes(
    bitmap: Bitmap, sites: Sequence[Site], unquantized: Unquantized, merged_widths: frozenset[int] = frozenset()
) -> int:
    """Return the bytes of a head that is the embedding itself at this bitmap, which are counted there."""
    heads = [(site, bitmap[site.name].weight) for site in sites if site.is_head and unquantized.head_view]
    own = [
        site for site, bits in heads if not (site.has_adapter and bits in merged_widths) and _passes_through(site, bits)
    ]
    return sum(FLOAT_BYTES * site.weights for site in own)


def _passes_through(site: Site, bits: int) -> bool:
    return bits >= site.quantization.weight.at(bits).full_precision_bits


def _check_sites(bitmap: Bitmap, sites: Sequence[Site]) -> None:
    if set(bitmap) != {site.name for site in sites}:
        raise BadInputError(
            f"a bitmap must name the model's {len(sites)} sites to be priced: it names {len(bitmap)} others"
        )
