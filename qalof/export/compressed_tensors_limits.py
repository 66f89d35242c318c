"""What a compressed-tensors folder of format ``pack-quantized`` can hold.

:mod:`qalof.export.compressed_tensors` writes such a folder.

What the format, or its readers, cannot hold is refused before anything is computed: values that are not code times
scale, widths between 8 bits and full precision, rounded inputs and caches, layers other than ``Linear``, a rounded
embedding, and a head that is rounded while the embedding shares its weight.
"""

from __future__ import annotations

from torch import nn

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.export.packed import skeleton
from qalof.layer_bits import FULL_PRECISION, LayerBits, WeightWidth, bits_of
from qalof.model.sites import site_path
from qalof.model.switchable import SwitchableModel
from qalof.quantization.granularity import Granularity, check_divides
from qalof.quantization.methods.gguf import Gguf
from qalof.quantization.quantizer import Quantizer
from qalof.site import Site

FORMAT = "pack-quantized"
HIGHEST = 8
"""The largest width of packed codes."""
_WAY_OUT = "export packed integers instead"


def check_expressible(model: SwitchableModel, bitmap: Bitmap) -> None:
    """Refuse what the format cannot hold, before anything is computed.

    Raises:
        BadInputError: a site, its width or its quantizer has no form there; the error names it.
    """
    bare = skeleton(model)
    for site in model.sites:
        _check_site(model, site, bitmap[site.name], bare.get_submodule(site_path(model.model, site)))


def _check_site(model: SwitchableModel, site: Site, layer: LayerBits, module: nn.Module) -> None:
    width, quantizer = layer.weight_width, site.quantization.weight.at(layer.weight_width)
    plain = bits_of(width) >= quantizer.full_precision_bits
    rounded_input = (
        not site.is_embedding
        and layer.activation < site.quantization.activation.at(layer.activation).full_precision_bits
    )
    cache = site.quantization.kv
    rounded_cache = any(bits < cache.at(bits).full_precision_bits for bits in site.kv_widths(layer.kv))
    if rounded_input or rounded_cache:
        what = "inputs" if rounded_input else "the KV cache"
        raise BadInputError(
            f"{FORMAT} holds weights alone, and its readers round by other grids: {site.name} is at {layer}, which "
            f"rounds {what} too; take w{width}a{FULL_PRECISION}kv{FULL_PRECISION}, or {_WAY_OUT}"
        )
    if plain:
        return
    if site.is_embedding or not isinstance(module, nn.Linear):
        raise BadInputError(
            f"{FORMAT} is read for layers of type Linear: {site.name} is a {type(module).__name__} at {width} bits; "
            f"leave it at {FULL_PRECISION}, or {_WAY_OUT}"
        )
    if site.is_head and getattr(model.model.config, "tie_word_embeddings", False):
        raise BadInputError(
            f"{FORMAT} has no rounded head whose weight the embedding shares: {site.name} is at {width} bits; leave it "
            f"at {FULL_PRECISION}, or {_WAY_OUT}"
        )
    _check_quantizer(site, width, quantizer)


def _check_quantizer(site: Site, width: WeightWidth, quantizer: Quantizer) -> None:
    bits = bits_of(width)
    if bits != int(bits) or not 2 <= bits <= HIGHEST:
        raise BadInputError(
            f"widths of {FORMAT} are whole numbers from 2 to {HIGHEST}, and {FULL_PRECISION}: {site.name} has {width}; "
            f"take one of these, or {_WAY_OUT}"
        )
    quantizer.check_bits(bits)
    if not (quantizer.scaled_codes or isinstance(quantizer, Gguf)):
        why = "which has zero points" if quantizer.has_zero_point else "whose values are no codes times a scale"
        raise BadInputError(
            f"{FORMAT} is written of values that are code times scale: {site.name} has quantizer {quantizer.method}, "
            f"{why}; take symmetric, or {_WAY_OUT}"
        )
    if quantizer.granularity is Granularity.GROUP:
        assert quantizer.group_size is not None
        check_divides(quantizer.group_size, site.in_features, f"the columns of {site.name} in {FORMAT}")
