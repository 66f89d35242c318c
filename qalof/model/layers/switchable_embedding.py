"""An input embedding that looks tokens up at the width it was last set to, and the heads that are tied to it.

Each row, a token's vector, is rounded by itself: it is what a linear layer calls an output channel.  The embedding is a
:class:`SwitchableLinear` whose forward looks up instead of multiplying, so caching, fixed codes and files are the same
for both.  A head that shares its weight has two forms: :class:`TiedHead` is not a site and multiplies by what the
embedding looks up; :class:`TiedViewLinear` is a site, rounds the weight at its own width, and follows the embedding at
full precision.  Both hold the embedding in a tuple, which torch does not register as a child module.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import nn
from torch.nn import functional

from qalof.errors import BadInputError
from qalof.layer_bits import WeightWidth, bits_of
from qalof.model.layers.held_weight import Kernel
from qalof.model.layers.switchable_linear import SwitchableLinear
from qalof.precision import all_finite
from qalof.quantization.scheme import QuantizationScheme


class SwitchableEmbedding(SwitchableLinear):
    """``nn.Embedding`` with a fake-quantized weight; ``bits.weight_width`` is its width.

    The weight is (vocabulary, features), the input (...) of token ids, and the output (..., features).
    """

    padding_idx: int | None = None

    @classmethod
    def of_table(cls, table: nn.Module, name: str, scheme: QuantizationScheme) -> Self:
        """Take over the weight of the embedding ``table``, as its own parameter, so a tied head keeps it.

        Raises:
            BadInputError: The weight contains NaN or infinity, or does not fit the scheme.
        """
        weight = table.weight
        assert isinstance(weight, nn.Parameter)
        if not weight.is_meta and not all_finite(weight):
            raise BadInputError(
                f"weights must be finite to be quantized: {name} holds NaN or infinity; load another checkpoint"
            )
        made = cls(weight.detach(), None, scheme, name)
        made.weight, made.padding_idx = weight, getattr(table, "padding_idx", None)
        return made

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (...) of token ids to (..., features)."""
        return functional.embedding(input, self.looked_up(), self.padding_idx)

    def looked_up(self) -> torch.Tensor:
        """Return the weight, (vocabulary, features), rounded at the current width."""
        return self.rounded_weight(self.bits.weight_width)

    def kernel(self) -> Kernel:
        """Return the kernel ``float``, since a look-up multiplies nothing."""
        return Kernel("float", "rows are looked up")


class TiedHead(nn.Linear):
    """A language-modeling head that is not a site, on top of an embedding that is one."""

    def __init__(self, head: nn.Linear, embedding: SwitchableEmbedding) -> None:
        super().__init__(head.in_features, head.out_features, bias=head.bias is not None, device="meta")
        self.weight, self.bias = head.weight, head.bias
        self._followed = (embedding,)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (..., features) to (..., vocabulary)."""
        return functional.linear(input, self._followed[0].looked_up(), self.bias)


class TiedViewLinear(SwitchableLinear):
    """A head with a width of its own; at full precision it multiplies by what the embedding looks up."""

    _followed: tuple[SwitchableEmbedding, ...] = ()

    def follow(self, embedding: SwitchableEmbedding) -> None:
        """Set the embedding whose weight this is."""
        self._followed = (embedding,)

    def rounded_weight(self, width: WeightWidth) -> torch.Tensor:
        """Return the rounded weight; at full precision it is what the embedding looks up."""
        if self._followed and bits_of(width) >= self.scheme.weight.at(width).full_precision_bits:
            return self._followed[0].looked_up()
        return super().rounded_weight(width)
