"""Fake quantization of what enters the KV cache.

Keys and values are rounded where they leave their projection, adapter included: what the cache then holds,
and what the current token attends to, is the rounded tensor, so that decoding with a cache equals the full
forward whatever attention implementation runs (algorithms.md 1.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from qalof.bitmap import PASS_THROUGH


def quantize_kv(
    projected: torch.Tensor,
    slices: Sequence[slice],
    bits: int,
    quantizers: Sequence[Callable[[torch.Tensor, float], torch.Tensor]],
) -> torch.Tensor:
    """Round the key and value features of each token, each with a scale of its own.

    Args:
        projected: (..., features), the output of a projection.
        slices: where keys and values lie in the features.
        bits: width of the cache.
        quantizers: one a slice; called with the slice and ``bits``.
    """
    if bits == PASS_THROUGH or not slices:
        return projected
    parts, at = [], 0
    for part, quantize in zip(slices, quantizers, strict=True):
        parts.append(projected[..., at : part.start])
        parts.append(quantize(projected[..., part], bits))
        at = part.stop
    parts.append(projected[..., at:])
    return torch.cat(parts, dim=-1)
