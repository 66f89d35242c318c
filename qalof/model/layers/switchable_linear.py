"""A linear layer that runs at the width it was last set to.

    y = fq_w(W) fq_a(x) + bias            by default W per output channel, x per token

The LoRA branch stands outside, in PEFT's own layer around this one (:mod:`qalof.model.layers.lora_linear`).

:mod:`qalof.model.layers.cached_weight_linear` says what is cached of the weight per width, and when it is rounded
again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self, cast

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from qalof.errors import BadInputError
from qalof.layer_bits import FULL_PRECISION, LayerBits
from qalof.model.layers.cached_weight_linear import CachedWeightLinear
from qalof.model.layers.held_weight import FLOAT, Kernel
from qalof.model.layers.real_tokens import RealTokens
from qalof.model.layers.tensor_quantizer import TensorQuantizer
from qalof.precision import all_finite
from qalof.quantization.scheme import QuantizationScheme
from qalof.site import KvLayout


class SwitchableLinear(CachedWeightLinear):
    """``nn.Linear`` with fake-quantized weight and input; :attr:`bits` has their widths.

    The input is (..., in), and the output (..., out).

    Args:
        weight: (out, in), a parameter that is taken over, not copied.
        bias: (out,), which is taken over too; may be None.
        scheme: the quantizers.
        name: the name of the site, for errors.
        kv: where the output holds keys and values; None if it feeds no cache.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scheme: QuantizationScheme | None = None,
        name: str = "layer",
        kv: KvLayout | None = None,
    ) -> None:
        out_features, in_features = weight.shape
        super().__init__(in_features, out_features, bias is not None)
        self.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias, requires_grad=False)
        self.place = name
        self.bits = LayerBits.of(FULL_PRECISION)
        self.scheme = scheme or QuantizationScheme()
        widths = self.scheme.widths
        self.weight_quantizer = TensorQuantizer(self.scheme.weight, in_features, f"{name} weight", widths, self.weight)
        self.input_quantizer = TensorQuantizer(
            self.scheme.activation, in_features, f"{name} activation", widths, tokens=RealTokens()
        )
        self._kv_quantizers = nn.ModuleList(_make_kv_quantizers(self.scheme, kv, name))
        for quantizer in (self.input_quantizer, self._kv_quantizers):
            quantizer.to(weight.device)

    @classmethod
    def of(
        cls,
        layer: nn.Linear | Conv1D,
        name: str,
        scheme: QuantizationScheme | None = None,
        kv: KvLayout | None = None,
    ) -> Self:
        """Take over the weight and bias of ``layer``; the (in, out) of a Conv1D is transposed once, here.

        Raises:
            BadInputError: The weight contains NaN or infinity, or does not fit the scheme.
        """
        weight = layer.weight.detach()
        if isinstance(layer, Conv1D):
            weight = weight.T.contiguous()
        if not weight.is_meta and not all_finite(weight):
            raise BadInputError(
                f"weights must be finite to be quantized: {name} holds NaN or infinity; load another checkpoint"
            )
        return cls(weight, None if layer.bias is None else layer.bias.detach(), scheme, name, kv)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (..., in) to (..., out)."""
        if self._holds_integers() and not (torch.compiler.is_compiling() or self._learning()):
            held = self._hold(self.bits.weight_width)
            product = held.product(input, self.input_quantizer, self.bits.activation, self.bias)
            if product is not None:
                return product
        return functional.linear(self.quantize_input(input), self.rounded_weight(self.bits.weight_width), self.bias)

    def quantize_input(self, input: torch.Tensor) -> torch.Tensor:
        """Return the input, (..., in), rounded at the current activation width."""
        rounded: torch.Tensor = self.input_quantizer(input, self.bits.activation)
        return rounded

    def kernel(self) -> Kernel:
        """Return the kernel at the current bits; packed integers multiply only where no gradient is needed."""
        width = self.bits.weight_width
        if self.bits.weight >= self.scheme.weight.at(width).full_precision_bits:
            return FLOAT
        if not self._holds_integers():
            return Kernel("float", f"weights are held as {self.scheme.held}")
        return self._hold(width).kernel_for(self.input_quantizer, self.bits.activation)

    @property
    def kv_quantizers(self) -> list[TensorQuantizer]:
        """Return the quantizers of keys, of values or of both, where the output holds any."""
        return [cast(TensorQuantizer, quantizer) for quantizer in self._kv_quantizers]

    def _holds_integers(self) -> bool:
        """Return whether the weight is kept in a form whose codes may multiply, at the current width."""
        if not (self.packed_only or self.scheme.held in ("packed", "int8")):
            return False
        return self.bits.weight < self.scheme.weight.at(self.bits.weight_width).full_precision_bits


def _make_kv_quantizers(scheme: QuantizationScheme, kv: KvLayout | None, name: str) -> Iterator[TensorQuantizer]:
    if kv is None:
        return
    cache = scheme.kv.for_heads(kv.head_dim)
    for index in range(len(kv.parts)):
        features = kv.heads * kv.head_dim
        yield TensorQuantizer(cache, features, f"{name} kv {index}", scheme.widths, tokens=RealTokens())
