"""A linear layer that runs at whichever width it was last told.

    y = fq_w(W) fq_a(x) + bias            by default W per output channel, x per token

The LoRA branch stands outside, in PEFT's own layer around this one, and sees the raw ``x`` (merge order (a)
of algorithms.md 2).

Frozen weights are rounded once for each width and held, since re-quantizing a weight costs more than the product
with a short batch; a weight (or an LSQ step) that is being trained is rounded on every forward that has a graph,
with its gradient.  What is held is forgotten when the weight changes: by a move, a cast, an in-place write, or
another tensor in its place.  One way is not noticed, since torch keeps no count of it: a write through
``weight.data``; call :meth:`SwitchableLinear.forget` after one.

What holding costs: ``held="values"`` keeps each width as it is multiplied, 4 bytes a weight in fp32 (GPT-2's 48
layers: 340 MB a width); ``held="codes"`` keeps integers, 1 byte a weight up to 8 bits (85 MB), and decodes them on
each forward: 16 x 128 tokens do not feel it, decoding one token at a time costs about twice.  Values are the
default, because a model small enough to be trained here is small enough to be held a few times.
:meth:`SwitchableLinear.held_bytes` says what is held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from qalof.bitmap import PASS_THROUGH, LayerBits
from qalof.errors import BadInputError
from qalof.model.tensor_quantizer import TensorQuantizer
from qalof.quantization.quantizer import Encoded
from qalof.quantization.scheme import QuantizationScheme


class SwitchableLinear(nn.Linear):
    """``nn.Linear`` with fake-quantized weight and input; :attr:`bits` says how.

    weight: (out, in), fp; input: (..., in); output: (..., out).

    Args:
        weight: is taken over, not copied.
        bias: likewise; may be None.
        scheme: the quantizers.
        name: of the site, for errors.
        kv_features: features of each slice of the output that enters the KV cache.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scheme: QuantizationScheme | None = None,
        name: str = "layer",
        kv_features: Sequence[int] = (),
    ) -> None:
        out_features, in_features = weight.shape
        super().__init__(in_features, out_features, bias=bias is not None, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias, requires_grad=False)
        self.bits = LayerBits.of(PASS_THROUGH)
        self.scheme = scheme or QuantizationScheme()
        widths = self.scheme.widths
        self.weight_quantizer = TensorQuantizer(self.scheme.weight, in_features, f"{name} weight", widths, self.weight)
        self.input_quantizer = TensorQuantizer(self.scheme.activation, in_features, f"{name} activation", widths)
        self.kv_quantizers = nn.ModuleList(
            TensorQuantizer(self.scheme.kv, features, f"{name} kv {index}", widths)
            for index, features in enumerate(kv_features)
        )
        self._held: dict[float, torch.Tensor | Encoded] = {}
        self._held_for: tuple[tuple[torch.Tensor, int], ...] = ()

    @classmethod
    def of(
        cls,
        layer: nn.Linear | Conv1D,
        name: str,
        scheme: QuantizationScheme | None = None,
        kv_features: Sequence[int] = (),
    ) -> Self:
        """Take over the weight and bias of ``layer``; Conv1D's (in, out) is transposed once, here.

        Raises:
            BadInputError: the weight holds NaN or infinity, or does not fit the scheme.
        """
        weight = layer.weight.detach()
        if isinstance(layer, Conv1D):
            weight = weight.T.contiguous()
        if not torch.isfinite(weight).all():
            raise BadInputError(
                f"weights must be finite to be quantized: {name} holds NaN or infinity; load another checkpoint"
            )
        return cls(weight, None if layer.bias is None else layer.bias.detach(), scheme, name, kv_features)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        bits = self.bits  # read once: a switch in the middle must not mix two configurations
        rounded = self.input_quantizer(input, bits.activation)
        return functional.linear(rounded, self.rounded_weight(bits.weight), self.bias)

    def rounded_weight(self, bits: float) -> torch.Tensor:
        """The weight on the grid of ``bits``: (out, in), computed once while nothing in it changes or is trained."""
        if bits >= self.scheme.weight.at(bits).passthrough_bits:
            return self.weight
        if torch.is_grad_enabled() and any(p.requires_grad for p in self._sources()):
            rounded: torch.Tensor = self.weight_quantizer(self.weight, bits)
            return rounded
        return self._held_weight(bits)

    @torch.no_grad()
    def encoded_weight(self, bits: float) -> Encoded:
        """Codes and grid of the weight, for a packed file.

        Raises:
            BadInputError: pass-through, or a weight that is not finite.
        """
        quantizer = self.scheme.weight.at(bits)
        return quantizer.encode(self.weight, bits, self.weight_quantizer.grid(self.weight, bits, quantizer))

    def held_bytes(self) -> dict[float, int]:
        """Width -> bytes of the rounded weight held for it, scales included; the weight itself is not counted."""
        self._forget_stale()
        return {bits: sum(t.numel() * t.element_size() for t in _tensors(held)) for bits, held in self._held.items()}

    def forget(self) -> None:
        """Drop all held weights; needed only after a write through ``weight.data``."""
        self._held.clear()

    def _held_weight(self, bits: float) -> torch.Tensor:
        self._forget_stale()
        if bits not in self._held:
            # a tensor made in inference mode could never serve a later training step
            with torch.inference_mode(False), torch.no_grad():
                self._held[bits] = self._to_hold(bits)
        held = self._held[bits]
        if isinstance(held, torch.Tensor):
            return held
        return self.scheme.weight.at(bits).decode(held).to(self.weight.dtype)

    def _to_hold(self, bits: float) -> torch.Tensor | Encoded:
        if self.scheme.held == "values":
            rounded: torch.Tensor = self.weight_quantizer(self.weight, bits)
            return rounded
        encoded = self.encoded_weight(bits)
        lowest, highest = self.scheme.weight.at(bits).code_range(bits)
        for dtype in (torch.int8, torch.uint8):
            if torch.iinfo(dtype).min <= lowest and highest <= torch.iinfo(dtype).max:
                return Encoded(encoded.codes.to(dtype), encoded.grid, bits)
        return encoded

    def _sources(self) -> list[nn.Parameter]:
        """What the rounded weight is a function of."""
        steps = self.weight_quantizer.steps
        return [self.weight] if steps is None else [self.weight, *steps.parameters()]

    def _forget_stale(self) -> None:
        now = tuple((source, source._version) for source in self._sources())
        same = len(now) == len(self._held_for) and all(
            a is b and version == seen for (a, version), (b, seen) in zip(now, self._held_for, strict=True)
        )
        if not same:
            self._held.clear()
            self._held_for = now

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._held.clear()
        return cast(Self, super()._apply(fn, recurse))


def _tensors(held: torch.Tensor | Encoded) -> list[torch.Tensor]:
    if isinstance(held, torch.Tensor):
        return [held]
    return [part for part in (held.codes, held.scale, held.zero) if part is not None]
