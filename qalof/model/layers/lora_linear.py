"""PEFT's LoRA layer around a switchable one, with the order of merging and rounding as an option.

With s = alpha/rank (rsLoRA: alpha/sqrt(rank)), fq at the site's weight width and x^ = fq(x) (docs/methods/adapters.md,
"Merge orders"; S4 is a system of docs/systems.md):

=======================  =============================  =======================================================
``branch`` (a)           fq(W) x^ + s B A x             the references' default; the branch stays in full precision
``merge_then_quantize``  fq(W + s B A) x^               (b): one integer weight per width, nothing more at inference
``quantize_product``     (fq(W) + fq(s B A)) x^         (c): S4's Q(W) + Q(AB)
``quantize_factors``     fq(W) x^ + s fq(B) fq(A) x     (d): S4's Q(W) + Q(A) Q(B), r (in + out) weights, not in out
=======================  =============================  =======================================================

With B = 0 all four are equal, bit for bit; at 32 bits (b) is (a) up to rounding of sums.  The gradient reaches A and B
through the straight-through estimator in (b) to (d).  (b) and (c) have only one input, so dropout on the input of the
branch does not exist there.

In eval mode, without gradients, a merged weight is cached once computed, as a frozen weight is.  It is dropped when W,
A or B change their version and whenever training begins, since fused optimizers write without raising the version.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Any, cast

import torch
from peft.tuners import lora
from torch.nn import functional

from qalof.layer_bits import WeightWidth
from qalof.model.layers.switchable_linear import SwitchableLinear
from qalof.model.layers.weight_cache import WeightCache


class MergeOrder(StrEnum):
    """Where the branch is added and what is rounded; see the module."""

    BRANCH = "branch"
    MERGE_THEN_QUANTIZE = "merge_then_quantize"
    QUANTIZE_PRODUCT = "quantize_product"
    QUANTIZE_FACTORS = "quantize_factors"

    @property
    def one_input(self) -> bool:
        """Whether W and the branch see the same rounded input."""
        return self in (MergeOrder.MERGE_THEN_QUANTIZE, MergeOrder.QUANTIZE_PRODUCT)


class LoraInput(StrEnum):
    """The input of the branch in (a) and (d): x itself or its rounded form."""

    RAW = "raw"
    QUANTIZED = "quantized"


class SwitchableLora(lora.Linear):
    """The LoRA branches of one site, of which at most one is active.

    Attributes:
        base_layer: the :class:`SwitchableLinear` underneath.
        merge_order: the order of adding and rounding.
        lora_input: the input of the branch.
        start: (A0, B0) of an init that took them out of the weight, otherwise None.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.merge_by(MergeOrder.BRANCH, LoraInput.RAW)
        self.start: tuple[torch.Tensor, torch.Tensor] | None = None
        self._cached: dict[str, WeightCache[WeightWidth, torch.Tensor]] = {}

    def merge_by(self, order: MergeOrder, lora_input: LoraInput) -> None:
        """Set the order of adding and rounding, and the input of the branch, which choose the forward to run."""
        self.merge_order, self.lora_input = order, lora_input
        self._forward = _FORWARDS[order]

    @property
    def active(self) -> str | None:
        """The name of the adapter in use."""
        return None if self._disable_adapters else cast(str, self.active_adapters[0])

    @active.setter
    def active(self, name: str | None) -> None:
        self.activate(name)

    def activate(self, name: str | None) -> None:
        """Run ``name`` from now on; None runs no branch."""
        # PEFT's set_adapter would change requires_grad, and nn.Module's __setattr__ would spend time on finding out
        # that these are not parameters
        state = self.__dict__
        state["_disable_adapters"] = name is None
        if name is not None:
            state["_active_adapter"] = name

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Return A (rank, in), B (out, rank) and s of one adapter."""
        return self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]

    def product(self, name: str) -> torch.Tensor:
        """Return s B A of one adapter, (out, in)."""
        a, b, scaling = self.factors(name)
        return scaling * (b @ a)

    def merged_weight(self, name: str) -> torch.Tensor:
        """Return W + s B A of one adapter, (out, in), unrounded."""
        return cast(torch.Tensor, self.base_layer.weight + self.product(name))

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map (..., in) to (..., out), at the width that the base layer is set to."""
        name = self.active
        if name is None:
            return cast(torch.Tensor, super().forward(x, *args, **kwargs))
        return self._forward(self, name, x, *args, **kwargs)

    def merged_once(self, name: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return what ``compute`` makes of the weight and the branch ``name`` at the current width.

        It is computed once in eval mode without gradients, and on every call otherwise.
        """
        base = cast(SwitchableLinear, self.base_layer)
        sources = (base.weight, *self.factors(name)[:2])
        if self.training or (torch.is_grad_enabled() and any(source.requires_grad for source in sources)):
            return compute()
        return self._cached.setdefault(name, WeightCache()).get(base.bits.weight_width, sources, compute)

    def forget(self) -> None:
        """Drop what is cached for inference: rounded products and merged weights."""
        self._cached.clear()

    def train(self, mode: bool = True) -> SwitchableLora:
        """Set the mode, and drop what was cached for inference."""
        if mode:
            self._cached.clear()
        return cast(SwitchableLora, super().train(mode))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> SwitchableLora:
        self._cached.clear()
        return cast(SwitchableLora, super()._apply(fn, recurse))


Forward = Callable[..., torch.Tensor]
"""A forward with a branch: (layer, name of the adapter, x, and what else the layer was called with) -> (..., out)."""


def _branch(layer: SwitchableLora, name: str, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Compute (a), from x itself with fewer passes over the output than PEFT's own code; the numbers are the same.

    The sum goes into the output of the frozen layer.  A scaling by a power of two, which is exact at any place,
    goes to the narrow side of the branch.
    """
    a, b, scaling = layer.factors(name)
    if layer.lora_input is LoraInput.QUANTIZED:
        return _sum(layer, name, x, a, b)
    if layer.merged or args or kwargs or name in layer.lora_variant:
        return cast(torch.Tensor, lora.Linear.forward(layer, x, *args, **kwargs))
    low = functional.linear(layer.lora_dropout[name](x.to(a.dtype)), a)
    if math.frexp(scaling)[0] == 0.5:
        branch = functional.linear(low if scaling == 1 else low * scaling, b)
    else:
        branch = functional.linear(low, b) * scaling
    plain: torch.Tensor = layer.base_layer(x)
    return plain.add_(branch) if plain.dtype == branch.dtype else (plain + branch).to(plain.dtype)


def _merge_then_quantize(layer: SwitchableLora, name: str, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Compute (b)."""
    base = cast(SwitchableLinear, layer.base_layer)
    if base.packed_only:  # the packed weight contains the branch
        return cast(torch.Tensor, base(x))
    merged = layer.merged_once(name, lambda: base.quantize_weight(layer.merged_weight(name), base.bits.weight_width))
    return functional.linear(base.quantize_input(x), merged, base.bias)


def _quantize_product(layer: SwitchableLora, name: str, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Compute (c)."""
    base = cast(SwitchableLinear, layer.base_layer)
    product = layer.merged_once(name, lambda: base.quantize_weight(layer.product(name), base.bits.weight_width))
    return cast(torch.Tensor, base(x) + functional.linear(base.quantize_input(x), product))


def _quantize_factors(layer: SwitchableLora, name: str, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Compute (d)."""
    base = cast(SwitchableLinear, layer.base_layer)
    a, b, _ = layer.factors(name)
    return _sum(
        layer, name, x, base.quantize_weight(a, base.bits.weight_width), base.quantize_weight(b, base.bits.weight_width)
    )


def _sum(layer: SwitchableLora, name: str, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return fq(W) x^ + s B A x, with A and B as given."""
    base = cast(SwitchableLinear, layer.base_layer)
    seen = layer.lora_dropout[name](x if layer.lora_input is LoraInput.RAW else base.quantize_input(x))
    return cast(torch.Tensor, base(x) + functional.linear(functional.linear(seen, a), b) * layer.scaling[name])


_FORWARDS: dict[MergeOrder, Forward] = {
    MergeOrder.BRANCH: _branch,
    MergeOrder.MERGE_THEN_QUANTIZE: _merge_then_quantize,
    MergeOrder.QUANTIZE_PRODUCT: _quantize_product,
    MergeOrder.QUANTIZE_FACTORS: _quantize_factors,
}
