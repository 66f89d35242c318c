"""A weight that is held rounded, for each width that was asked for.

Frozen weights are rounded once for each width and held, since re-quantizing a weight costs more than the product
with a short batch; a weight (or an LSQ step) that is being trained is rounded on every forward that has a graph,
with its gradient.  What is held is forgotten when the weight changes: by a move, a cast, an in-place write, or
another tensor in its place.  One way is not noticed, since torch keeps no count of it: a write through
``weight.data``; call :meth:`HoldingLinear.forget` after one.  In a graph of ``torch.compile`` the weight is rounded
in the graph, fused: a graph cannot ask whether the weight has changed, and a stale one would be silently wrong.
The bits are guards of the graph, so each configuration compiles once.

A width may have *fixed* codes instead, found by calibration rather than by rounding to nearest
(:mod:`qalof.post_training`).  They keep the grid they were found on: their largest value need not be the weight's, so
that a grid taken anew would be another one.

What holding costs: ``held="values"`` keeps each width as it is multiplied, 4 bytes a weight in fp32 (GPT-2's 48
layers: 340 MB a width); ``held="codes"`` keeps integers, 1 byte a weight up to 8 bits (85 MB), and decodes them on
each forward: 16 x 128 tokens do not feel it, decoding one token at a time costs about twice; ``held="packed"`` keeps
b bits a weight, and without gradients multiplies integers where a kernel can (:mod:`qalof.model.layers.packed_weight`);
``held="int8"`` keeps values and codes, 5 bytes, and multiplies integers in training too
(:mod:`qalof.model.layers.int8_weight`).
Values are the default, because a model small enough to be trained here is small enough to be held a few times.
:meth:`HoldingLinear.held_bytes` says what is held.  :meth:`HoldingLinear.pack` drops the weight itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self, cast

import torch
from torch import nn

from qalof.errors import BadInputError
from qalof.model.layers.int8_weight import Int8Weight
from qalof.model.layers.packed_weight import PackedWeight, bytes_in
from qalof.model.layers.tensor_quantizer import TensorQuantizer
from qalof.quantization.packing import pack
from qalof.quantization.quantizer import Encoded, Grid
from qalof.quantization.scheme import QuantizationScheme

Held = torch.Tensor | Encoded | PackedWeight | Int8Weight
"""A rounded weight as it is held: values, codes, packed codes, or values and codes."""


class HoldingLinear(nn.Linear):
    """What :class:`qalof.model.layers.switchable_linear.SwitchableLinear` knows of its weight.

    Attributes:
        weight: (out, in), unrounded; empty once :meth:`pack` was called.
        scheme: the quantizers.
        weight_quantizer: the weight's, with its learned steps.
        place: name of the site, for errors.
        packed_only: whether the weight itself is gone.
    """

    scheme: QuantizationScheme
    weight_quantizer: TensorQuantizer
    place: str

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__(in_features, out_features, bias=bias, device="meta")
        self._fixed: dict[float, Encoded] = {}
        self.packed_only = False
        self._held: dict[float, Held] = {}
        self._held_for: tuple[tuple[torch.Tensor, int], ...] = ()

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
        if bits in self._fixed:
            if self.weight.requires_grad:
                raise BadInputError(
                    f"a weight with fixed codes cannot be trained: {self.place} has them at {bits} bits; release them"
                )
            fixed = self._fixed[bits]
            return self._decoded(fixed) if torch.compiler.is_compiling() else self._held_weight(bits)
        if self._learning() or torch.compiler.is_compiling():
            return self.quantize_weight(self.weight, bits)
        return self._held_weight(bits)

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
            held[bits] = self._packed(weight, bits)
        self._held, self.packed_only, self._fixed = held, True, {}
        self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)

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
        elif isinstance(held, Int8Weight):
            self._held[bits] = held.put(tensors)
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
        if isinstance(held, Int8Weight):
            return held.values
        decoded = held.decode() if isinstance(held, PackedWeight) else self.scheme.weight.at(bits).decode(held)
        return decoded.to(self.weight.dtype)

    def _hold(self, bits: float) -> Held:
        self._forget_stale()
        if bits not in self._held:
            if self.packed_only:
                raise BadInputError(
                    f"a packed model runs at the widths it holds, {sorted(self._held)}: got {bits} at {self.place}"
                )
            # a tensor made in inference mode could never serve a later training step
            with torch.inference_mode(False), torch.no_grad():
                self._held[bits] = self._to_hold(bits)
        return self._held[bits]

    def _decoded(self, encoded: Encoded) -> torch.Tensor:
        return self.scheme.weight.at(encoded.bits).decode(encoded).to(self.weight.dtype)

    def _packed(self, weight: torch.Tensor, bits: float) -> PackedWeight:
        quantizer = self.scheme.weight.at(bits)
        if bits in self._fixed:
            return PackedWeight(pack(self._fixed[bits], quantizer), self.scheme.activation)
        grid = self.weight_quantizer.grid(weight, bits, quantizer)
        return PackedWeight.of(weight, bits, quantizer, self.scheme.activation, grid)

    def _learning(self) -> bool:
        return torch.is_grad_enabled() and any(source.requires_grad for source in self._sources())

    def _to_hold(self, bits: float) -> Held:
        if self.scheme.held == "values":
            return self._values(bits)
        if self.scheme.held == "packed":
            return self._packed(self.weight, bits)
        encoded, quantizer = self.encoded_weight(bits), self.scheme.weight.at(bits)
        if self.scheme.held == "int8":
            return Int8Weight.of(self._values(bits), encoded, quantizer, self.scheme.activation)
        lowest, highest = quantizer.code_range(bits)
        for dtype in (torch.int8, torch.uint8):
            if torch.iinfo(dtype).min <= lowest and highest <= torch.iinfo(dtype).max:
                return Encoded(encoded.codes.to(dtype), encoded.grid, bits)
        return encoded

    def _values(self, bits: float) -> torch.Tensor:
        fixed = self._fixed.get(bits)
        return self.quantize_weight(self.weight, bits) if fixed is None else self._decoded(fixed)

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

    def train(self, mode: bool = True) -> Self:
        """As of any module; what is held of a trained weight is dropped: fused optimizers write unnoticed."""
        if mode and any(source.requires_grad for source in self._sources()):
            self._held.clear()
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        if self.packed_only:
            for bits, held in self._held.items():
                self._held[bits] = held.moved(fn) if isinstance(held, PackedWeight) else fn(held)
        else:
            self._held.clear()
        moved = cast(Self, super()._apply(fn, recurse))
        self._fixed = {bits: _moved(encoded, self.weight.device) for bits, encoded in self._fixed.items()}
        return moved


def _moved(encoded: Encoded, device: torch.device) -> Encoded:
    """On ``device``; a cast of the weight leaves a grid in fp32."""
    zero = None if encoded.zero is None else encoded.zero.to(device)
    return Encoded(encoded.codes.to(device), Grid(encoded.scale.to(device), zero), encoded.bits)


def _tensors(held: Held) -> dict[str, torch.Tensor]:
    if isinstance(held, PackedWeight | Int8Weight):
        return held.tensors()
    if isinstance(held, torch.Tensor):
        return {"values": held}
    parts = {"codes": held.codes, "scale": held.scale, "zero": held.zero}
    return {name: part for name, part in parts.items() if part is not None}
