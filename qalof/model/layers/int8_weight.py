"""A frozen weight kept twice for training: int8 codes multiply in the forward pass, values in the backward pass.

Forwards   y = (sum_k q_x q_w) s_x s_w + bias    exact in int32 (:mod:`qalof.quantization.integer_matmul`), and several
                                                 times faster than fp32 on CPUs with VNNI or AMX and on tensor cores
Backwards  dL/dx = dL/dy fq(W)                   straight through the input's rounding, as fake quantization has it

Both give the numbers of fake quantization up to the rounding of sums; the product of the gradient is exactly the same.
Rounding gradients to integers as well was rejected: it changes what is learned, which ``gradient_bits`` of an objective
does on purpose. Where no integer kernel can be used (:meth:`Int8Weight.kernel_for` says why), values multiply in both
passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from qalof.model.layers.held_weight import INT_MM, HeldWeight, Kernel
from qalof.model.layers.packed_weight import PackedWeight
from qalof.model.layers.tensor_quantizer import TensorQuantizer
from qalof.quantization.packing import Packed
from qalof.quantization.quantizer import QuantizedTensor, Quantizer
from qalof.quantization.scheme import TensorScheme
from qalof.quantization.straight_through import StraightThrough


@dataclass(frozen=True)
class Int8Weight(HeldWeight):
    """One weight at one width.

    Attributes:
        values: (out, in), as fake quantization gives them.
        codes: the same as int8, None where codes do not fit a byte.
    """

    values: torch.Tensor
    codes: PackedWeight | None

    @classmethod
    def of(
        cls, values: torch.Tensor, quantized: QuantizedTensor, quantizer: Quantizer, activation: TensorScheme
    ) -> Self:
        """Make it from ``values`` and ``quantized``, the same weight, and ``activation``, the scheme of its inputs."""
        lowest, highest = quantizer.code_range(quantized.bits)
        if lowest < -128 or highest > 127 or not quantizer.scaled_codes:
            return cls(values, None)
        codes = Packed(quantized.codes.to(torch.int8), quantized.qparams, values.shape[1], quantized.bits, quantizer)
        return cls(values, PackedWeight(codes, activation))

    def weight(self) -> torch.Tensor:
        """Return the values themselves."""
        return self.values

    def kernel_for(self, inputs: TensorQuantizer, bits: float) -> Kernel:
        """Return the kernel that multiplies inputs that ``inputs`` rounds to ``bits``."""
        if self.codes is None:
            return Kernel("float", "weight values are not int8 codes times scales")
        if inputs.steps is not None or inputs.scheme.at(bits).ste is not StraightThrough.IDENTITY:
            return Kernel("float", "inputs have a gradient of their own")
        found = self.codes.kernel(bits, self.values.device)
        return found if found is INT_MM else Kernel("float", found.reason)

    def product(
        self, x: torch.Tensor, inputs: TensorQuantizer, bits: float, bias: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return fq(x) W^T + bias by the integer kernel, (..., out), with a gradient in ``x``; None without one."""
        if self.kernel_for(inputs, bits) is not INT_MM:
            return None
        product: torch.Tensor = _Product.apply(x, bias, self, inputs, bits)
        return product

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors that are kept, by name."""
        return {"values": self.values} | ({} if self.codes is None else self.codes.tensors())

    def over(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Return the same weight over equal ``tensors`` with the names of :meth:`tensors`."""
        return type(self)(tensors["values"], None if self.codes is None else self.codes.over(tensors))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        bias: torch.Tensor | None,
        weight: Int8Weight,
        quantizer: TensorQuantizer,
        bits: float,
    ) -> torch.Tensor:
        assert weight.codes is not None
        ctx.weight, ctx.dtype = weight.values, x.dtype
        kind = x.device.type
        out = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        return weight.codes.linear(x, quantizer, bits, bias).to(out)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = grads
        of_x = (grad @ ctx.weight.to(grad.dtype)).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        of_bias = grad.flatten(0, -2).sum(dim=0).to(ctx.weight.dtype) if ctx.needs_input_grad[1] else None
        return of_x, of_bias, None, None, None
