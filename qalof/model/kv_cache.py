"""Fake quantization of what enters the KV cache.

Keys and values are rounded where they leave their projection, adapter included: what the cache then holds,
and what the current token attends to, is the rounded tensor, so that decoding with a cache equals the full
forward whatever attention implementation runs (algorithms.md 1.1).

That holds because a token's scales come from that token alone.  A scale over the whole tensor would look at
tokens that are not there yet when the first ones are cached, so that it is refused.
"""

from __future__ import annotations

import torch

from qalof.layer_bits import PASS_THROUGH
from qalof.model.kv_layout import KvLayout, map_kv
from qalof.quantization.granularity import Granularity
from qalof.quantization.quantizers import fake_quantize


def quantize_kv(projected: torch.Tensor, layout: KvLayout | None, bits: int) -> torch.Tensor:
    """Round the key and value features of each token.

    Args:
        projected: (..., out), the output of a projection.
        layout: where keys and values lie in it, and their scales; None for a projection that feeds no cache.
        bits: width of the cache.
    """
    if bits == PASS_THROUGH or layout is None:
        return projected
    scales = layout.scales

    def rounded(features: torch.Tensor) -> torch.Tensor:
        grouped = features.flatten(-2).unflatten(-1, (scales, -1))
        return fake_quantize(grouped, bits, Granularity.TOKEN).reshape(features.shape)

    return map_kv(projected, layout, rounded)
