"""A linear layer that runs at whichever width it was last told.

    y = fq_w(W) fq_a(x) + bias            by default W per output channel, x per token

The LoRA branch stands outside, in PEFT's own layer around this one (:mod:`qalof.model.lora_linear`).

Frozen weights are rounded once for each width and held, since re-quantizing a weight costs more than the product
with a short batch; a weight (or an LSQ step) that is being trained is rounded on every forward that has a graph,
with its gradient.  What is held is forgotten when the weight changes: by a move, a cast, an in-place write, or
another tensor in its place.  One way is not noticed, since torch keeps no count of it: a write through
``weight.data``; call :meth:`SwitchableLinear.forget` after one.  In a graph of ``torch.compile`` the weight is rounded
in the graph, fused: a graph cannot ask whether the weight has changed, and a stale one would be silently wrong.
The bits are guards of the graph, so each configuration compiles once.

A width may have *fixed* codes instead, found by calibration rather than by rounding to nearest
(:mod:`qalof.post_training`).  They keep the grid they were found on: their largest value need not be the weight's, so
that a grid taken anew would be another one.

What holding costs: ``held="values"`` keeps each width as it is multiplied, 4 bytes a weight in fp32 (GPT-2's 48
layers: 340 MB a width); ``held="codes"`` keeps integers, 1 byte a weight up to 8 bits (85 MB), and decodes them on
each forward: 16 x 128 tokens do not feel it, decoding one token at a time costs about twice.  Values are the
default, because a model small enough to be trained here is small enough to be held a few times.
:meth:`SwitchableLinear.held_bytes` says what is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, cast

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from qalof.errors import BadInputError
from qalof.layer_bits import PASS_THROUGH, LayerBits
from qalof.model.kv_layout import KvLayout
from qalof.model.tensor_quantizer import TensorQuantizer
from qalof.quantization.quantizer import Encoded, Grid
from qalof.quantization.scheme import QuantizationScheme


class SwitchableLinear(nn.Linear):
    """``nn.Linear`` with fake-quantized weight and input; :attr:`bits` says how.

    weight: (out, in), fp; input: (..., in); output: (..., out).

    Args:
        weight: is taken over, not copied.
        bias: likewise; may be None.
        scheme: the quantizers.
        name: of the site, for errors.
        kv: where the output holds keys and values, None if it feeds no cache.
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
        super().__init__(in_features, out_features, bias=bias is not None, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias, requires_grad=False)
        self.place = name
        self.bits = LayerBits.of(PASS_THROUGH)
        self.scheme = scheme or QuantizationScheme()
        widths = self.scheme.widths
        self.weight_quantizer = TensorQuantizer(self.scheme.weight, in_features, f"{name} weight", widths, self.weight)
        self.input_quantizer = TensorQuantizer(self.scheme.activation, in_features, f"{name} activation", widths)
        self._kv_quantizers = nn.ModuleList(_make_kv_quantizers(self.scheme, kv, name))
        for quantizer in (self.input_quantizer, self._kv_quantizers):
            quantizer.to(weight.device)
        self._fixed: dict[float, Encoded] = {}
        self._held: dict[float, torch.Tensor | Encoded] = {}
        self._held_for: tuple[tuple[torch.Tensor, int], ...] = ()

    @classmethod
    def of(
        cls,
        layer: nn.Linear | Conv1D,
        name: str,
        scheme: QuantizationScheme | None = None,
        kv: KvLayout | None = None,
    ) -> Self:
        """Take over the weight and bias of ``layer``; Conv1D's (in, out) is transposed once, here.

        Raises:
            BadInputError: the weight holds NaN or infinity, or does not fit the scheme.
        """
        weight = layer.weight.detach()
        if isinstance(layer, Conv1D):
            weight = weight.T.contiguous()
        if not weight.is_meta and not torch.isfinite(weight).all():
            raise BadInputError(
                f"weights must be finite to be quantized: {name} holds NaN or infinity; load another checkpoint"
            )
        return cls(weight, None if layer.bias is None else layer.bias.detach(), scheme, name, kv)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return functional.linear(self.quantize_input(input), self.rounded_weight(self.bits.weight), self.bias)

    def quantize_input(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in) rounded at the current activation width."""
        rounded: torch.Tensor = self.input_quantizer(input, self.bits.activation)
        return rounded

    def quantize_weight(self, weight: torch.Tensor, bits: float) -> torch.Tensor:
        """Any weight of this site, (rows, columns), rounded as the site's own is at ``bits``.

        Raises:
            BadInputError: steps that were learned for the weight itself do not fit its shape.
        """
        rounded: torch.Tensor = self.weight_quantizer(weight, bits)
        return rounded

    def rounded_weight(self, bits: float) -> torch.Tensor:
        """The weight on the grid of ``bits``: (out, in), computed once while nothing in it changes or is trained."""
        if bits >= self.scheme.weight.at(bits).passthrough_bits:
            return self.weight
        if bits in self._fixed:
            if self.weight.requires_grad:
                raise BadInputError(
                    f"a weight with fixed codes cannot be trained: {self.place} has them at {bits} bits; release them"
                )
            fixed = self._fixed[bits]
            return self._decoded(fixed) if torch.compiler.is_compiling() else self._held_weight(bits)
        learning = torch.is_grad_enabled() and any(source.requires_grad for source in self._sources())
        if learning or torch.compiler.is_compiling():
            return self.quantize_weight(self.weight, bits)
        return self._held_weight(bits)

    @property
    def kv_quantizers(self) -> list[TensorQuantizer]:
        """Of keys, of values or of both, where the output holds any."""
        return [cast(TensorQuantizer, quantizer) for quantizer in self._kv_quantizers]

    @torch.no_grad()
    def encoded_weight(self, bits: float) -> Encoded:
        """Codes and grid of the weight, for a packed file.

        Raises:
            BadInputError: pass-through, or a weight that is not finite.
        """
        if bits in self._fixed:
            return self._fixed[bits]
        quantizer = self.scheme.weight.at(bits)
        return quantizer.encode(self.weight, bits, self.weight_quantizer.grid(self.weight, bits, quantizer))

    @property
    def fixed_codes(self) -> dict[float, Encoded]:
        """Codes by width that were found otherwise than by rounding the weight to nearest, such as GPTQ's."""
        return dict(self._fixed)

    def fix_codes(self, codes: Mapping[float, Encoded]) -> None:
        """Run these codes at their widths from now on, whatever the weight, until others are given; none: release.

        Raises:
            BadInputError: codes of another shape than the weight.
        """
        for bits, encoded in codes.items():
            if encoded.codes.shape != self.weight.shape:
                shapes = f"{tuple(encoded.codes.shape)} for {tuple(self.weight.shape)}"
                raise BadInputError(
                    f"fixed codes must have the weight's shape: {self.place} at {bits} bits got {shapes}"
                )
        self._fixed = {bits: _moved(encoded, self.weight.device) for bits, encoded in codes.items()}
        self.forget()

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
        return held if isinstance(held, torch.Tensor) else self._decoded(held)

    def _decoded(self, encoded: Encoded) -> torch.Tensor:
        return self.scheme.weight.at(encoded.bits).decode(encoded).to(self.weight.dtype)

    def _to_hold(self, bits: float) -> torch.Tensor | Encoded:
        if self.scheme.held == "values":
            fixed = self._fixed.get(bits)
            return self.quantize_weight(self.weight, bits) if fixed is None else self._decoded(fixed)
        encoded = self.encoded_weight(bits)
        lowest, highest = self.scheme.weight.at(bits).code_range(bits)
        for dtype in (torch.int8, torch.uint8):
            if torch.iinfo(dtype).min <= lowest and highest <= torch.iinfo(dtype).max:
                return Encoded(encoded.codes.to(dtype), encoded.grid, bits)
        return encoded

    def _sources(self) -> list[torch.Tensor]:
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

    def train(self, mode: bool = True) -> Self:
        """As of any module; what is held of a trained weight is dropped: fused optimizers write unnoticed."""
        if mode and any(source.requires_grad for source in self._sources()):
            self._held.clear()
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._held.clear()
        moved = cast(Self, super()._apply(fn, recurse))
        self._fixed = {bits: _moved(encoded, self.weight.device) for bits, encoded in self._fixed.items()}
        return moved


def _make_kv_quantizers(scheme: QuantizationScheme, kv: KvLayout | None, name: str) -> Iterator[TensorQuantizer]:
    if kv is None:
        return
    cache = scheme.kv.for_heads(kv.head_dim)
    for index in range(len(kv.parts)):
        yield TensorQuantizer(cache, kv.heads * kv.head_dim, f"{name} kv {index}", scheme.widths)


def _moved(encoded: Encoded, device: torch.device) -> Encoded:
    """On ``device``; a cast of the weight leaves a grid in fp32."""
    zero = None if encoded.zero is None else encoded.zero.to(device)
    return Encoded(encoded.codes.to(device), Grid(encoded.scale.to(device), zero), encoded.bits)


def _tensors(held: torch.Tensor | Encoded) -> list[torch.Tensor]:
    if isinstance(held, torch.Tensor):
        return [held]
    return [part for part in (held.codes, held.scale, held.zero) if part is not None]
