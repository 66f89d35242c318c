"""Fake quantization of what enters the KV cache.

Keys and values are rounded where they leave their projection, adapter included: what the cache then holds,
and what the current token attends to, is the rounded tensor, so that decoding with a cache equals the full
forward whatever attention implementation runs (algorithms.md 1.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qalof.bitmap import PASS_THROUGH
from qalof.quantization.granularity import Granularity
from qalof.quantization.quantizers import fake_quantize


def quantize_kv(projected: torch.Tensor, slices: Sequence[slice], bits: int) -> torch.Tensor:
    """Round the key and value features of each token, each with a scale of its own.

    Args:
        projected: (..., features), the output of a projection.
        slices: where keys and values lie in the features.
        bits: width of the cache.
    """
    if bits == PASS_THROUGH or not slices:
        return projected
    parts, at = [], 0
    for part in slices:
        parts.append(projected[..., at : part.start])
        parts.append(fake_quantize(projected[..., part], bits, Granularity.TOKEN))
        at = part.stop
    parts.append(projected[..., at:])
    return torch.cat(parts, dim=-1)
