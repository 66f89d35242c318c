"""A switchable model without its weights: it keeps packed integers of the widths that it will run at.

It is switched as before. Embeddings, norms, biases and adapters stay as they are. Each site holds one packed weight per
width and nothing in fp32, except at full precision.  Under ``merge_then_quantize`` a width's adapter is in its packed
weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from qalof.errors import BadInputError
from qalof.layer_bits import GroupedWidth, LayerBits, WeightWidth, bits_of, check_width, width_order
from qalof.model.layers.lora_linear import MergeOrder
from qalof.model.patch import SwitchableSite
from qalof.model.settings import SwitchSettings
from qalof.quantization.packing import packed_bytes
from qalof.quantization.scheme import QuantizationScheme
from qalof.site import HeadMode, Site


def check_packable(
    sites: Sequence[Site], settings: SwitchSettings, widths: Sequence[int | str | GroupedWidth]
) -> list[WeightWidth]:
    """Return the widths, from low to high; ``"4g32"`` is read as 4 bits in groups of 32.

    Raises:
        BadInputError: There are no widths or illegal ones, or the settings need the weights.
    """
    if not widths:
        raise BadInputError("widths must name at least one width to hold: got none; give those of the bitmaps")
    if settings.merge is MergeOrder.QUANTIZE_PRODUCT:
        raise BadInputError(
            "merge quantize_product needs a second weight in fp32 at every site, so that packing would save little: "
            "take branch or merge_then_quantize"
        )
    if settings.head_mode is HeadMode.TIED_BOTH and any(site.is_head for site in sites):
        raise BadInputError(
            "head_mode tied_both looks tokens up in the head's weight, which packing would drop: take tied_view"
        )
    if any(site.is_embedding for site in sites):
        raise BadInputError(
            "an embedding with a width looks tokens up in its weight, which packing would drop: take embedding none, "
            "or export a packed folder"
        )
    chosen = {_width(width) for width in widths}
    for width in chosen:
        for site in sites:
            check_width_of(site, width)
    return sorted(chosen, key=width_order)


def check_width_of(site: Site, width: WeightWidth) -> None:
    """Refuse a group size that a site's weight cannot have; a width without one is checked as it is rounded.

    Raises:
        BadInputError: The quantizer has no form in groups, or the size does not divide a row that it must divide.
    """
    if not isinstance(width, GroupedWidth):
        return
    try:
        quantizer = site.quantization.weight.at(width)
        if bits_of(width) < quantizer.full_precision_bits:
            quantizer.check_shape(site.in_features)
    except BadInputError as error:
        raise BadInputError(f"{site.name} at {width} bits: {error}") from None


@torch.no_grad()
def pack_sites(
    switches: Sequence[SwitchableSite], adapters: Mapping[WeightWidth, str | None], merge: MergeOrder
) -> None:
    """Pack every site and drop its weight, site by site, so the peak is one site above the start.

    A site is packed as a whole or stays.  An error leaves the sites before it packed; the model cannot be used then.

    Args:
        switches: one per site.
        adapters: each width to hold, and the adapter that serves it.
        merge: under ``merge_then_quantize`` a width's adapter goes into its packed weight.
    """
    for switch in switches:
        switch.linear.pack({width: _unrounded(switch, name, merge) for width, name in adapters.items()})


def predicted_bytes(sites: Sequence[Site], scheme: QuantizationScheme, widths: Sequence[WeightWidth]) -> int:
    """Return the bytes of packed sites, scales and zero points included, summed over ``widths``, without packing."""
    return sum(
        packed_bytes(site.out_features, site.in_features, bits_of(width), scheme.weight.at(width))
        for site in sites
        for width in widths
    )


def _width(width: int | str | GroupedWidth) -> WeightWidth:
    if isinstance(width, GroupedWidth):
        return width
    return LayerBits.parse(width).weight_width if isinstance(width, str) else check_width(width, "widths")


def _unrounded(switch: SwitchableSite, adapter: str | None, merge: MergeOrder) -> torch.Tensor:
    if switch.lora is None or adapter is None or merge is not MergeOrder.MERGE_THEN_QUANTIZE:
        return switch.linear.weight
    return switch.lora.merged_weight(adapter)
