"""An input embedding that is read from a packed file, and a head that is tied to it: one weight, stored once.

Decoded, both hold the same fp32 numbers.  Packed, a look-up decodes the rows that it needs, and the head decodes the
weight for the moment of its product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, cast

import torch
from torch import nn
from torch.nn import functional

from qalof.model.layers.packed_weight import PackedWeight
from qalof.site import Site


class PackedEmbedding(nn.Embedding):
    """``nn.Embedding`` with a decoded or a packed weight; (...) of token ids -> (..., features)."""

    def __init__(self, site: Site, weight: torch.Tensor | PackedWeight, padding_idx: int | None) -> None:
        super().__init__(site.out_features, site.in_features, padding_idx, device="meta")
        self.site = site
        self.packed = weight if isinstance(weight, PackedWeight) else None
        self.weight = nn.Parameter(torch.empty(0) if isinstance(weight, PackedWeight) else weight, requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return rows of the weight."""
        if self.packed is None:
            return functional.embedding(input, self.weight, self.padding_idx)
        return self.packed.rows(input.reshape(-1)).view(*input.shape, -1)

    def whole(self) -> torch.Tensor:
        """Return the whole weight, (vocabulary, features), fp32."""
        return self.weight if self.packed is None else self.packed.dequantize()

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        if self.packed is not None:
            self.packed = self.packed.moved(fn)
        return cast(Self, super()._apply(fn, recurse))


class PackedTiedHead(nn.Linear):
    """A head that multiplies by what the embedding looks up; (..., features) -> (..., vocabulary)."""

    def __init__(self, head: nn.Linear, embedding: PackedEmbedding) -> None:
        super().__init__(head.in_features, head.out_features, bias=head.bias is not None, device="meta")
        self.weight, self.bias = embedding.weight, head.bias
        self._followed = (embedding,)  # torch does not register a tuple as a child module

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the product with the embedding's weight."""
        return functional.linear(input, self._followed[0].whole(), self.bias)
