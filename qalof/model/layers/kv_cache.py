"""Fake quantization of the keys and values that enter the KV cache.

Keys and values are rounded where they leave their projection, adapter included. The cache then holds the rounded
tensor, and the current token attends to it too, so decoding with a cache equals the full forward with every attention
implementation (docs/methods/quantizers.md, "Granularity").

That holds because a token's scales come from that token alone, or from a range found beforehand.  A dynamic scale over
the whole tensor would look at tokens that are not there yet when the first ones are cached, so schemes refuse it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from qalof.layer_bits import FULL_PRECISION, KvWidth
from qalof.model.layers.kv_layout import map_kv
from qalof.model.layers.tensor_quantizer import TensorQuantizer
from qalof.quantization.granularity import Granularity
from qalof.site import KvLayout


def quantize_kv(
    projected: torch.Tensor, layout: KvLayout | None, width: KvWidth, quantizers: Iterable[TensorQuantizer]
) -> torch.Tensor:
    """Round the key and value features of each token.

    Args:
        projected: (..., out), the output of a projection.
        layout: where keys and values lie in it, and their scales; None for a projection that feeds no cache.
        width: the width of the cache.
        quantizers: the quantizers of keys, of values, or of both, as the layout has them.
    """
    if width == FULL_PRECISION or layout is None:
        return projected
    scales, each = layout.scales, zip(quantizers, layout.widths(width), strict=True)

    def rounded(features: torch.Tensor) -> torch.Tensor:
        quantizer, bits = next(each)
        token = features.flatten(-2)
        if quantizer.scheme.at(bits).granularity is Granularity.TOKEN:
            token = token.unflatten(-1, (scales, -1))
        changed: torch.Tensor = quantizer(token, bits)
        return changed.reshape(features.shape)

    return map_kv(projected, layout, rounded)
