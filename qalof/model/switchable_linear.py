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

What holding costs: ``held="values"`` keeps each width as it is multiplied, 4 bytes a weight in fp32 (GPT-2's 48
layers: 340 MB a width); ``held="codes"`` keeps integers, 1 byte a weight up to 8 bits (85 MB), and decodes them on
each forward: 16 x 128 tokens do not feel it, decoding one token at a time costs about twice; ``held="packed"`` keeps
b bits a weight, and without gradients multiplies integers where a kernel can (:mod:`qalof.model.packed_weight`).
Values are the default, because a model small enough to be trained here is small enough to be held a few times.
:meth:`SwitchableLinear.held_bytes` says what is held.  :meth:`SwitchableLinear.pack` drops the weight itself.
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
from qalof.model.packed_weight import FLOAT, Kernel, PackedWeight, bytes_in
from qalof.model.tensor_quantizer import TensorQuantizer
from qalof.quantization.quantizer import Encoded, Grid
from qalof.quantization.scheme import QuantizationScheme

Held = torch.Tensor | Encoded | PackedWeight
"""A rounded weight as it is held: values, codes or packed codes."""


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
        self.bits = LayerBits.of(PASS_THROUGH)
        self.scheme = scheme or QuantizationScheme()
        widths = self.scheme.widths
        self.weight_quantizer = TensorQuantizer(self.scheme.weight, in_features, f"{name} weight", widths, self.weight)
        self.input_quantizer = TensorQuantizer(self.scheme.activation, in_features, f"{name} activation", widths)
        self._kv_quantizers = nn.ModuleList(_make_kv_quantizers(self.scheme, kv, name))
        for quantizer in (self.input_quantizer, self._kv_quantizers):
            quantizer.to(weight.device)
        self.site_name = name
        self.packed_only = False
        self._held: dict[float, Held] = {}
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
        packed = self._packed_for(input)
        if packed is not None:
            return packed.linear(input, self.input_quantizer, self.bits.activation, self.bias)
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
        if self.packed_only:
            return self._held_weight(bits)
        if bits >= self.scheme.weight.at(bits).passthrough_bits:
            return self.weight
        if self._learning() or torch.compiler.is_compiling():
            return self.quantize_weight(self.weight, bits)
        return self._held_weight(bits)

    def kernel(self) -> Kernel:
        """What multiplies at the current bits, where no gradient is asked for."""
        bits = self.bits.weight
        if bits >= self.scheme.weight.at(bits).passthrough_bits:
            return FLOAT
        if not self.packed_only and self.scheme.held != "packed":
            return Kernel("float", f"weights are held as {self.scheme.held}")
        held = self._hold(bits)
        assert isinstance(held, PackedWeight)
        return held.kernel(self.bits.activation, self.weight.device)

    def pack(self, weights: Mapping[float, torch.Tensor]) -> None:
        """Hold packed integers of these weights alone, by width, and drop the weight: for inference, for good.

        ``weights``: (out, in) each, unrounded; a width at which the quantizer passes through is kept as it is.
        """
        held: dict[float, Held] = {}
        for bits, weight in weights.items():
            quantizer = self.scheme.weight.at(bits)
            if bits >= quantizer.passthrough_bits:
                held[bits] = weight.detach()
                continue
            grid = self.weight_quantizer.grid(weight, bits, quantizer)
            held[bits] = PackedWeight.of(weight, bits, quantizer, self.scheme.activation, grid)
        self._held, self.packed_only = held, True
        self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)

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
        quantizer = self.scheme.weight.at(bits)
        return quantizer.encode(self.weight, bits, self.weight_quantizer.grid(self.weight, bits, quantizer))

    def held_bytes(self) -> dict[float, int]:
        """Width -> bytes of the rounded weight held for it, scales included; the weight itself is not counted."""
        self._forget_stale()
        return {bits: bytes_in(tensors) for bits, tensors in self.held_tensors().items()}

    def held_tensors(self) -> dict[float, dict[str, torch.Tensor]]:
        """Width -> what is held for it, by name."""
        return {bits: _tensors(held) for bits, held in self._held.items()}

    def put_held(self, bits: float, tensors: dict[str, torch.Tensor]) -> None:
        """Hold equal ``tensors`` of :meth:`held_tensors`' names in the place of those held now."""
        held = self._held[bits]
        if isinstance(held, PackedWeight):
            held.put(tensors)
        elif isinstance(held, torch.Tensor):
            self._held[bits] = tensors["values"]
        else:
            self._held[bits] = Encoded(tensors["codes"], Grid(tensors["scale"], tensors.get("zero")), held.bits)

    def forget(self) -> None:
        """Drop all held weights; needed only after a write through ``weight.data``."""
        if not self.packed_only:
            self._held.clear()

    def _held_weight(self, bits: float) -> torch.Tensor:
        held = self._hold(bits)
        if isinstance(held, torch.Tensor):
            return held
        decoded = held.decode() if isinstance(held, PackedWeight) else self.scheme.weight.at(bits).decode(held)
        return decoded.to(self.weight.dtype)

    def _hold(self, bits: float) -> Held:
        self._forget_stale()
        if bits not in self._held:
            if self.packed_only:
                raise BadInputError(
                    f"a packed model runs at the widths it holds, {sorted(self._held)}: got {bits} at {self.site_name}"
                )
            # a tensor made in inference mode could never serve a later training step
            with torch.inference_mode(False), torch.no_grad():
                self._held[bits] = self._to_hold(bits)
        return self._held[bits]

    def _packed_for(self, input: torch.Tensor) -> PackedWeight | None:
        """The packed weight that multiplies ``input``; None where values do."""
        bits = self.bits.weight
        if not (self.packed_only or self.scheme.held == "packed") or torch.compiler.is_compiling():
            return None
        if bits >= self.scheme.weight.at(bits).passthrough_bits:
            return None
        # integers have no gradients
        if self._learning() or (torch.is_grad_enabled() and input.requires_grad):
            return None
        held = self._hold(bits)
        return held if isinstance(held, PackedWeight) else None

    def _learning(self) -> bool:
        return torch.is_grad_enabled() and any(source.requires_grad for source in self._sources())

    def _to_hold(self, bits: float) -> Held:
        if self.scheme.held == "values":
            return self.quantize_weight(self.weight, bits)
        if self.scheme.held == "packed":
            quantizer = self.scheme.weight.at(bits)
            grid = self.weight_quantizer.grid(self.weight, bits, quantizer)
            return PackedWeight.of(self.weight, bits, quantizer, self.scheme.activation, grid)
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
        if self.packed_only:
            return
        now = tuple((source, source._version) for source in self._sources())
        same = len(now) == len(self._held_for) and all(
            a is b and version == seen for (a, version), (b, seen) in zip(now, self._held_for, strict=True)
        )
        if not same:
            self._held.clear()
            self._held_for = now

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        if self.packed_only:
            for bits, held in self._held.items():
                self._held[bits] = held.moved(fn) if isinstance(held, PackedWeight) else fn(held)
        else:
            self._held.clear()
        return cast(Self, super()._apply(fn, recurse))


def _make_kv_quantizers(scheme: QuantizationScheme, kv: KvLayout | None, name: str) -> Iterator[TensorQuantizer]:
    if kv is None:
        return
    cache = scheme.kv.for_heads(kv.head_dim)
    for index in range(len(kv.parts)):
        yield TensorQuantizer(cache, kv.heads * kv.head_dim, f"{name} kv {index}", scheme.widths)


def _tensors(held: Held) -> dict[str, torch.Tensor]:
    if isinstance(held, PackedWeight):
        return held.tensors()
    if isinstance(held, torch.Tensor):
        return {"values": held}
    parts = {"codes": held.codes, "scale": held.scale, "zero": held.zero}
    return {name: part for name, part in parts.items() if part is not None}
