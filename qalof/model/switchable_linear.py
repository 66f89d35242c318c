"""A linear layer that runs at whichever width it was last told.

    y = fq_w(W) fq_a(x) + bias            W per output channel, x per token

The LoRA branch stands outside, in PEFT's own layer around this one (:mod:`qalof.model.lora_linear`).
Frozen weights are rounded once for each width and kept, since re-quantizing a weight costs more than the
product with a short batch; a weight that is being trained is rounded on every forward, with the
straight-through gradient.  The cache is emptied by whatever changes the weight: a move, a cast, an in-place write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, cast

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from qalof.bitmap import PASS_THROUGH, LayerBits
from qalof.errors import BadInputError
from qalof.quantization.granularity import Granularity
from qalof.quantization.quantizers import fake_quantize


class SwitchableLinear(nn.Linear):
    """``nn.Linear`` with fake-quantized weight and input; :attr:`bits` says how.

    weight: (out, in), fp; input: (..., in); output: (..., out).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        out_features, in_features = weight.shape
        super().__init__(in_features, out_features, bias=bias is not None, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias, requires_grad=False)
        self.bits = LayerBits.of(PASS_THROUGH)
        self._rounded: dict[int, torch.Tensor] = {}
        self._rounded_version = -1

    @classmethod
    def of(cls, layer: nn.Linear | Conv1D, name: str) -> Self:
        """Take over the weight and bias of ``layer``; Conv1D's (in, out) is transposed once, here.

        Raises:
            BadInputError: the weight holds NaN or infinity.
        """
        weight = layer.weight.detach()
        if isinstance(layer, Conv1D):
            weight = weight.T.contiguous()
        if not weight.is_meta and not torch.isfinite(weight).all():
            raise BadInputError(
                f"weights must be finite to be quantized: {name} holds NaN or infinity; load another checkpoint"
            )
        return cls(weight, None if layer.bias is None else layer.bias.detach())

    def rounded_weight(self, bits: int) -> torch.Tensor:
        """The weight on the grid of ``bits``: (out, in), computed once while the weight stays frozen."""
        if bits == PASS_THROUGH:
            return self.weight
        if self.weight.requires_grad:
            return self.quantize_weight(self.weight, bits)
        if self._rounded_version != self.weight._version:
            self._rounded.clear()
            self._rounded_version = self.weight._version
        if bits not in self._rounded:
            # a tensor made in inference mode could never serve a later training step
            with torch.inference_mode(False), torch.no_grad():
                self._rounded[bits] = self.quantize_weight(self.weight, bits)
        return self._rounded[bits]

    def quantize_weight(self, weight: torch.Tensor, bits: int) -> torch.Tensor:
        """Any weight of this site, (rows, columns), rounded row by row with its quantizer at ``bits``."""
        return fake_quantize(weight, bits, Granularity.CHANNEL)

    def quantize_input(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in) rounded token by token at the current activation width."""
        return fake_quantize(input, self.bits.activation, Granularity.TOKEN)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return functional.linear(self.quantize_input(input), self.rounded_weight(self.bits.weight), self.bias)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._rounded.clear()
        return cast(Self, super()._apply(fn, recurse))
