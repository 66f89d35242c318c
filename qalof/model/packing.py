"""A switchable model without its weights: it keeps packed integers of the widths that it will run at.

It is switched as before. Embeddings, norms, biases and adapters stay as they are. Each site holds one packed weight per
width and nothing in fp32, except at pass-through.  Under ``merge_then_quantize`` a width's adapter is in its packed
weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch

from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.layer_bits import PASS_THROUGH, LayerBits, check_width
from qalof.model.layers.lora_linear import MergeOrder
from qalof.model.layers.packed_weight import Kernel
from qalof.model.patch import Switch
from qalof.model.settings import SwitchSettings
from qalof.quantization.packing import packed_bytes
from qalof.quantization.scheme import QuantizationScheme
from qalof.site import HeadMode, Site

if TYPE_CHECKING:
    from qalof.model.switchable import SwitchableModel


class Packing:
    """The methods of a :class:`SwitchableModel` that concern packing.

    Attributes:
        packed_widths: the packed widths, from low to high, once its weights are dropped; None before.
    """

    packed_widths: tuple[int, ...] | None = None
    settings: SwitchSettings
    _switches: list[Switch]

    def pack_for_inference(self, widths: Sequence[int]) -> None:
        """Keep packed integers of ``widths`` only and drop the weights permanently.

        A model at a bitmap with other widths is set to the lowest of them, with inputs and cache unquantized.

        Raises:
            BadInputError: see :func:`check_packable`.
        """
        model = cast("SwitchableModel", self)
        chosen = check_packable(model, widths)
        pack_sites(model, self._switches, chosen)
        self.packed_widths = tuple(chosen)
        if not {layer.weight for layer in model.bitmap.values()} <= set(chosen):
            model.set_bitmap(Bitmap.uniform(model.site_names, LayerBits(chosen[0], PASS_THROUGH, PASS_THROUGH)))
        model.eval()

    def kernels(self) -> dict[str, Kernel]:
        """Return the kernel of each site at the current bitmap; see :mod:`qalof.model.layers.packed_weight`."""
        return {switch.site.name: switch.linear.kernel() for switch in self._switches}

    def held_bytes(self) -> dict[float, int]:
        """Return, by width, the bytes of the rounded weights that all sites hold for it."""
        total: dict[float, int] = {}
        for switch in self._switches:
            for bits, count in switch.linear.held_bytes().items():
                total[bits] = total.get(bits, 0) + count
        return total

    def check_held(self, bits: int) -> None:
        """Refuse a width that a packed model does not hold."""
        if self.packed_widths is not None and bits not in self.packed_widths:
            raise BadInputError(f"a packed model runs at the widths it holds, {list(self.packed_widths)}: got {bits}")

    def check_adapter_may_change(self) -> None:
        """Refuse another adapter where the packed weight of a width contains its own."""
        if self.packed_widths is not None and self.settings.merge is MergeOrder.MERGE_THEN_QUANTIZE:
            raise BadInputError("merge_then_quantize packs a width's adapter with its weight: set a bitmap instead")


def check_packable(model: SwitchableModel, widths: Sequence[int]) -> list[int]:
    """Return the widths, from low to high.

    Raises:
        BadInputError: There are no widths or illegal ones, a width has no adapter under policy ``exact``, the model is
            packed already, or its settings need its weights.
    """
    if model.packed_widths is not None:
        raise BadInputError(f"a model is packed once: it holds {list(model.packed_widths)}; load it again")
    if not widths:
        raise BadInputError("widths must name at least one width to hold: got none; give those of the bitmaps")
    if model.settings.merge is MergeOrder.QUANTIZE_PRODUCT:
        raise BadInputError(
            "merge quantize_product needs a second weight in fp32 at every site, so that packing would save little: "
            "take branch or merge_then_quantize"
        )
    if model.settings.head_mode is HeadMode.TIED_BOTH and any(site.is_head for site in model.sites):
        raise BadInputError(
            "head_mode tied_both looks tokens up in the head's weight, which packing would drop: take tied_view"
        )
    if any(site.is_embedding for site in model.sites):
        raise BadInputError(
            "an embedding with a width looks tokens up in its weight, which packing would drop: take embedding none, "
            "or export a packed folder"
        )
    chosen = sorted({check_width(bits, "widths") for bits in widths})
    for bits in chosen:
        model.adapter_at(bits)
    return chosen


@torch.no_grad()
def pack_sites(model: SwitchableModel, switches: Sequence[Switch], widths: Sequence[int]) -> None:
    """Pack every site at ``widths`` and drop its weight, site by site, so the peak is one site above the start.

    A site is packed as a whole or stays.  An error leaves the sites before it packed; the model cannot be used then.
    """
    for switch in switches:
        switch.linear.pack({bits: _unrounded(model, switch, bits) for bits in widths})


def predicted_bytes(sites: Sequence[Site], scheme: QuantizationScheme, widths: Sequence[int]) -> int:
    """Return the bytes of packed sites, scales and zero points included, summed over ``widths``, without packing."""
    return sum(
        packed_bytes(site.out_features, site.in_features, bits, scheme.weight.at(bits))
        for site in sites
        for bits in widths
    )


def _unrounded(model: SwitchableModel, switch: Switch, bits: int) -> torch.Tensor:
    name = model.adapter_at(bits)
    if switch.lora is None or name is None or model.settings.merge is not MergeOrder.MERGE_THEN_QUANTIZE:
        return switch.linear.weight
    return switch.lora.merged_weight(name)
