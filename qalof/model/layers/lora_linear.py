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

from qalof.model.layers.switchable_linear import SwitchableLinear


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
        self.merge_order = MergeOrder.BRANCH
        self.lora_input = LoraInput.RAW
        self.start: tuple[torch.Tensor, torch.Tensor] | None = None
        self._kept: dict[tuple[str, int], tuple[tuple[int, ...], torch.Tensor]] = {}

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
        name, raw = self.active, self.lora_input is LoraInput.RAW
        if name is None:
            return cast(torch.Tensor, super().forward(x, *args, **kwargs))
        if self.merge_order is MergeOrder.BRANCH and raw:
            return self._beside(name, x, *args, **kwargs)
        base = cast(SwitchableLinear, self.base_layer)
        bits = base.bits.weight
        if self.merge_order is MergeOrder.MERGE_THEN_QUANTIZE:
            if base.packed_only:  # the packed weight contains the branch
                return cast(torch.Tensor, base(x))
            merged = self._merged(name, lambda: base.quantize_weight(self.merged_weight(name), bits))
            return functional.linear(base.quantize_input(x), merged, base.bias)
        if self.merge_order is MergeOrder.QUANTIZE_PRODUCT:
            product = self._merged(name, lambda: base.quantize_weight(self.product(name), bits))
            return cast(torch.Tensor, base(x) + functional.linear(base.quantize_input(x), product))
        a, b, scaling = self.factors(name)
        seen = self.lora_dropout[name](x if raw else base.quantize_input(x))
        if self.merge_order is MergeOrder.QUANTIZE_FACTORS:
            a, b = base.quantize_weight(a, bits), base.quantize_weight(b, bits)
        return cast(torch.Tensor, base(x) + functional.linear(functional.linear(seen, a), b) * scaling)

    def _beside(self, name: str, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute (a) with fewer passes over the output than PEFT's own code; the numbers are exactly the same.

        The sum goes into the output of the frozen layer.  A scaling by a power of two, which is exact at any place,
        goes to the narrow side of the branch.
        """
        if self.merged or args or kwargs or name in self.lora_variant:
            return cast(torch.Tensor, super().forward(x, *args, **kwargs))
        a, b, scaling = self.factors(name)
        low = functional.linear(self.lora_dropout[name](x.to(a.dtype)), a)
        if math.frexp(scaling)[0] == 0.5:
            branch = functional.linear(low if scaling == 1 else low * scaling, b)
        else:
            branch = functional.linear(low, b) * scaling
        plain: torch.Tensor = self.base_layer(x)
        return plain.add_(branch) if plain.dtype == branch.dtype else (plain + branch).to(plain.dtype)

    def _merged(self, name: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        sources = (self.base_layer.weight, *self.factors(name)[:2])
        if self.training or (torch.is_grad_enabled() and any(source.requires_grad for source in sources)):
            return compute()
        key = (name, self.base_layer.bits.weight)
        versions = tuple(number for source in sources for number in (source._version, source.data_ptr()))
        if key not in self._kept or self._kept[key][0] != versions:
            # a tensor made in inference mode could never serve a later training step
            with torch.inference_mode(False), torch.no_grad():
                self._kept[key] = (versions, compute())
        return self._kept[key][1]

    def forget(self) -> None:
        """Drop what is cached for inference: rounded products and merged weights."""
        self._kept.clear()

    def train(self, mode: bool = True) -> SwitchableLora:
        """Set the mode, and drop what was cached for inference."""
        if mode:
            self._kept.clear()
        return cast(SwitchableLora, super().train(mode))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> SwitchableLora:
        self._kept.clear()
        return cast(SwitchableLora, super()._apply(fn, recurse))
