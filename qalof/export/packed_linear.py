"""A site that is read from a packed file: it has one width and one branch, and nothing to switch.

It computes what :class:`qalof.model.layers.lora_linear.SwitchableLora` around
:class:`qalof.model.layers.switchable_linear.SwitchableLinear` computes in eval mode at one bitmap, by the same
operations in the same order, so outputs are equal bit for bit where the weight is decoded once and kept in fp32; that
is the reference for the meaning of a packed file. If it is kept packed, it takes the bytes of the file and is
multiplied as :mod:`qalof.model.layers.packed_weight` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
from torch import nn
from torch.nn import functional

from qalof.layer_bits import LayerBits
from qalof.model.layers.held_weight import FLOAT, Kernel
from qalof.model.layers.kv_cache import quantize_kv
from qalof.model.layers.lora_linear import LoraInput, MergeOrder
from qalof.model.layers.packed_weight import PackedWeight
from qalof.model.layers.real_tokens import RealTokens
from qalof.model.layers.tensor_quantizer import TensorQuantizer
from qalof.model.settings import SwitchSettings
from qalof.site import Site


@dataclass(frozen=True)
class Branch:
    """A site's active adapter: ``a`` (rank, in), ``b`` (out, rank), fp32; s scales their product."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


class PackedLinear(nn.Linear):
    """``nn.Linear`` with a decoded weight, a quantized input, a branch and a quantized cache.

    The input is (..., in), and the output (..., out).

    Args:
        site: the site.
        weight: (out, in), decoded or packed.
        bias: (out,) or None.
        bits: the widths of weight, input and cache.
        settings: the settings of the model that was packed.
        branch: the branch to add; None where there is none or the weight contains it already.
    """

    def __init__(
        self,
        site: Site,
        weight: torch.Tensor | PackedWeight,
        bias: torch.Tensor | None,
        bits: LayerBits,
        settings: SwitchSettings,
        branch: Branch | None = None,
    ) -> None:
        super().__init__(site.in_features, site.out_features, bias=bias is not None, device="meta")
        self.packed = weight if isinstance(weight, PackedWeight) else None
        self.weight = nn.Parameter(torch.empty(0) if isinstance(weight, PackedWeight) else weight, requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias, requires_grad=False)
        self.site, self.bits, self.settings = site, bits, settings
        self.quantizers = nn.ModuleDict(make_quantizers(site))
        self.scaling = 1.0
        if branch is not None:
            self._install(branch)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (..., in) to (..., out), with keys and values rounded as the cache holds them."""
        quantizer = cast(TensorQuantizer, self.quantizers["input"])
        output = self._product(input, quantizer)
        parts = {name: part for name, part in self._buffers.items() if part is not None}
        if "product" in parts:
            output = output + functional.linear(quantizer(input, self.bits.activation), parts["product"])
        elif "a" in parts:
            raw = self.settings.lora_input is LoraInput.RAW
            seen = input if raw else quantizer(input, self.bits.activation)
            output = output + functional.linear(functional.linear(seen, parts["a"]), parts["b"]) * self.scaling
        cache = [quantizer for name, quantizer in self.quantizers.items() if name != "input"]
        kept: torch.Tensor = quantize_kv(output, self.site.kv, self.bits.kv, cache)  # type: ignore[arg-type]
        return kept

    def kernel(self) -> Kernel:
        """Return the kernel that multiplies here, where no gradient is needed."""
        if self.packed is not None:
            return self.packed.kernel(self.bits.activation, self.weight.device)
        width = self.bits.weight_width
        passes = self.bits.weight >= self.site.quantization.weight.at(width).full_precision_bits
        return FLOAT if passes else Kernel("float", "the weight is held decoded")

    def _product(self, input: torch.Tensor, quantizer: TensorQuantizer) -> torch.Tensor:
        bits = self.bits.activation
        if self.packed is None:
            return functional.linear(quantizer(input, bits), self.weight, self.bias)
        if torch.is_grad_enabled() and input.requires_grad:  # a product of integers has no gradient
            return functional.linear(quantizer(input, bits), self.packed.dequantize(), self.bias)
        return self.packed.linear(input, quantizer, bits, self.bias)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        if self.packed is not None:
            self.packed = self.packed.moved(fn)
        return cast(Self, super()._apply(fn, recurse))

    def _install(self, branch: Branch) -> None:
        """Keep what the merge order adds to the product with the weight, rounded where it rounds."""
        merge, width, self.scaling = self.settings.merge, self.bits.weight_width, branch.scaling
        if merge is MergeOrder.BRANCH:
            parts = {"a": branch.a, "b": branch.b}
        else:
            # there are no learned steps here: settings refuse them with the merge orders that round a branch
            fresh = TensorQuantizer(self.settings.quantization.weight, self.in_features, f"{self.site.name} branch")
            if merge is MergeOrder.QUANTIZE_PRODUCT:
                parts = {"product": fresh(branch.scaling * (branch.b @ branch.a), width)}
            else:
                parts = {"a": fresh(branch.a, width), "b": fresh(branch.b, width)}
        for name, part in parts.items():
            self.register_buffer(name, part, persistent=False)

    def look_up(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """Look rows up in this weight, as the forward hook of an embedding that shares it."""
        return functional.embedding(inputs[0], self.weight, getattr(module, "padding_idx", None))


def make_quantizers(site: Site) -> dict[str, TensorQuantizer]:
    """Return the quantizers of the input, ``input``, and of what the output gives to the cache, ``kv_0`` and so on."""
    scheme = site.quantization
    place, features, widths = f"{site.name} activation", site.in_features, scheme.widths
    made = {"input": TensorQuantizer(scheme.activation, features, place, widths, tokens=RealTokens())}
    if site.kv is None:
        return made
    cache, features = scheme.kv.for_heads(site.kv.head_dim), site.kv.heads * site.kv.head_dim
    for index in range(len(site.kv.parts)):
        made[f"kv_{index}"] = TensorQuantizer(cache, features, f"{site.name} kv {index}", widths, tokens=RealTokens())
    return made
