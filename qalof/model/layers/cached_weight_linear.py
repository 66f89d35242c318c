"""A linear layer that caches its rounded weight for each width that it has run at.

A width is bits, or bits with a group size of its own (:data:`qalof.layer_bits.WeightWidth`): ``4`` and ``4g32`` are two
widths, rounded and cached apart.

Frozen weights are rounded once per width and cached, since re-quantizing a weight costs more than the product with a
short batch. A weight (or an LSQ step) that is being trained is rounded on every forward that has a graph, with its
gradient. The cache is dropped when the weight changes: by a move, a cast, an in-place write, or another tensor in its
place. One kind of change is not noticed, since torch does not count it: a write through ``weight.data``; call
:meth:`CachedWeightLinear.forget` after one.  In a graph of ``torch.compile`` the weight is rounded in the graph, fused:
a graph cannot check whether the weight has changed, and a stale one would be silently wrong. The bits are guards of
the graph, so each configuration compiles once.

A width may have *fixed* codes instead, found by calibration rather than by rounding to nearest
(:mod:`qalof.post_training`).  They keep the grid on which they were found: their largest value need not be that of the
weight, so a grid that is computed again would be another one.

``held`` of the scheme is the form in which a width is cached (:mod:`qalof.model.layers.held_weight`). Values cost
340 MB per width for GPT-2's 48 layers, codes 85 MB; decoding these on each forward is not noticeable with 16 x 128
tokens, and it doubles the time of decoding one token at a time. Values are the default, because a model that is small
enough to be trained here fits into memory a few times. :meth:`CachedWeightLinear.held_bytes` says how much is cached.
:meth:`CachedWeightLinear.pack` drops the weight itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self, cast

import torch
from torch import nn

from qalof.errors import BadInputError
from qalof.layer_bits import WeightWidth, bits_of, listed
from qalof.model.layers.held_weight import HeldCodes, HeldValues, HeldWeight
from qalof.model.layers.int8_weight import Int8Weight
from qalof.model.layers.packed_weight import PackedWeight, bytes_in
from qalof.model.layers.tensor_quantizer import TensorQuantizer
from qalof.model.layers.weight_cache import WeightCache
from qalof.quantization.packing import pack
from qalof.quantization.quantizer import QParams, QuantizedTensor
from qalof.quantization.scheme import QuantizationScheme


class CachedWeightLinear(nn.Linear):
    """The part of :class:`qalof.model.layers.switchable_linear.SwitchableLinear` that concerns its weight.

    Attributes:
        weight: (out, in), unrounded; empty once :meth:`pack` was called.
        scheme: the quantizers.
        weight_quantizer: the quantizer of the weight, with its learned steps.
        place: the name of the site, for errors.
        packed_only: whether the weight itself was dropped.
    """

    scheme: QuantizationScheme
    weight_quantizer: TensorQuantizer
    place: str

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__(in_features, out_features, bias=bias, device="meta")
        self._fixed: dict[WeightWidth, QuantizedTensor] = {}
        self._cache: WeightCache[WeightWidth, HeldWeight] = WeightCache()
        self.packed_only = False
        self._packed: dict[WeightWidth, HeldValues | PackedWeight] = {}

    def reset_parameters(self) -> None:
        """Draw nothing, since weight and bias are taken over from another layer."""

    def quantize_weight(self, weight: torch.Tensor, width: WeightWidth) -> torch.Tensor:
        """Round any weight of this site, (rows, columns), as the site's own weight is rounded at ``width``.

        Raises:
            BadInputError: Steps that were learned for the site's weight do not fit the shape.
        """
        rounded: torch.Tensor = self.weight_quantizer(weight, width)
        return rounded

    def rounded_weight(self, width: WeightWidth) -> torch.Tensor:
        """Return the weight on the grid of ``width``: (out, in), computed once while nothing in it changes or is
        trained.
        """
        if self.packed_only:
            return self._held_weight(width)
        if bits_of(width) >= self.scheme.weight.at(width).full_precision_bits:
            return self.weight
        if width in self._fixed:
            if self.weight.requires_grad:
                raise BadInputError(
                    f"a weight with fixed codes cannot be trained: {self.place} has them at {width} bits; release them"
                )
            return self._dequantized(width) if torch.compiler.is_compiling() else self._held_weight(width)
        if self._learning() or torch.compiler.is_compiling():
            return self.quantize_weight(self.weight, width)
        return self._held_weight(width)

    @torch.no_grad()
    def quantized_weight(self, width: WeightWidth) -> QuantizedTensor:
        """Return codes and grid of the weight, for a packed file.

        Raises:
            BadInputError: The width is full precision, or the weight is not finite.
        """
        if width in self._fixed:
            return self._fixed[width]
        quantizer = self.scheme.weight.at(width)
        return quantizer.quantize(
            self.weight, bits_of(width), self.weight_quantizer.qparams(self.weight, width, quantizer)
        )

    @property
    def fixed_codes(self) -> dict[WeightWidth, QuantizedTensor]:
        """The codes, by width, that were found by another method than rounding to nearest, such as GPTQ."""
        return dict(self._fixed)

    def fix_codes(self, codes: Mapping[WeightWidth, QuantizedTensor]) -> None:
        """Run these codes at their widths from now on, whatever the weight is; an empty mapping releases them.

        Raises:
            BadInputError: The codes have another shape than the weight.
        """
        for width, quantized in codes.items():
            if quantized.codes.shape != self.weight.shape:
                shapes = f"{tuple(quantized.codes.shape)} for {tuple(self.weight.shape)}"
                raise BadInputError(
                    f"fixed codes must have the weight's shape: {self.place} at {width} bits got {shapes}"
                )
        self._fixed = {width: _moved(quantized, self.weight.device) for width, quantized in codes.items()}
        self.forget()

    def pack(self, weights: Mapping[WeightWidth, torch.Tensor]) -> None:
        """Keep packed integers of these weights only, by width, and drop the weight permanently, for inference.

        ``weights`` are (out, in) each, unrounded; a width at which the quantizer passes through is kept as it is.
        """
        self._packed = {width: self.packed_weight(weight, width) for width, weight in weights.items()}
        self.packed_only, self._fixed = True, {}
        self._cache.clear()
        self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)

    def held_bytes(self) -> dict[WeightWidth, int]:
        """Return, by width, the bytes of the cached rounded weight, scales included; the weight itself is not
        counted.
        """
        return {width: bytes_in(tensors) for width, tensors in self.held_tensors().items()}

    def held_tensors(self) -> dict[WeightWidth, dict[str, torch.Tensor]]:
        """Return, by width, the cached tensors by name."""
        return {width: held.tensors() for width, held in self._held().items()}

    def put_held(self, width: WeightWidth, tensors: dict[str, torch.Tensor]) -> None:
        """Replace the cached tensors by equal ``tensors`` with the names of :meth:`held_tensors`."""
        held = self._held()
        held[width] = held[width].over(tensors)

    def forget(self) -> None:
        """Drop all cached weights; this is needed only after a write through ``weight.data``."""
        self._cache.clear()

    def _held(self) -> dict[WeightWidth, Any]:
        return self._packed if self.packed_only else self._cache.of(self._sources())

    def _held_weight(self, width: WeightWidth) -> torch.Tensor:
        return self._hold(width).weight().to(self.weight.dtype)

    def _hold(self, width: WeightWidth) -> HeldWeight:
        if not self.packed_only:
            return self._cache.get(width, self._sources(), lambda: self._to_hold(width))
        if width not in self._packed:
            raise BadInputError(
                f"a packed model runs at the widths it holds, {listed(self._packed)}: got {width} at {self.place}"
            )
        return self._packed[width]

    def _dequantized(self, width: WeightWidth) -> torch.Tensor:
        return self.scheme.weight.at(width).dequantize(self._fixed[width]).to(self.weight.dtype)

    def packed_weight(self, weight: torch.Tensor, width: WeightWidth) -> HeldValues | PackedWeight:
        """Return an unrounded weight, (out, in), packed at a width; itself where the quantizer passes it through."""
        quantizer = self.scheme.weight.at(width)
        if bits_of(width) >= quantizer.full_precision_bits:
            return HeldValues(weight.detach())
        if width in self._fixed:
            return PackedWeight(pack(self._fixed[width], quantizer), self.scheme.activation)
        qparams = self.weight_quantizer.qparams(weight, width, quantizer)
        return PackedWeight.of(weight, bits_of(width), quantizer, self.scheme.activation, qparams)

    def _learning(self) -> bool:
        return torch.is_grad_enabled() and any(source.requires_grad for source in self._sources())

    def _to_hold(self, width: WeightWidth) -> HeldWeight:
        match self.scheme.held:
            case "values":
                return HeldValues(self._values(width))
            case "codes":
                return HeldCodes.of(self.quantized_weight(width), self.scheme.weight.at(width))
            case "packed":
                return self.packed_weight(self.weight, width)
            case "int8":
                quantized, quantizer = self.quantized_weight(width), self.scheme.weight.at(width)
                return Int8Weight.of(self._values(width), quantized, quantizer, self.scheme.activation)

    def _values(self, width: WeightWidth) -> torch.Tensor:
        return self._dequantized(width) if width in self._fixed else self.quantize_weight(self.weight, width)

    def _sources(self) -> list[torch.Tensor]:
        """Return the tensors that the rounded weight is a function of."""
        steps = self.weight_quantizer.steps
        return [self.weight] if steps is None else [self.weight, *steps.parameters()]

    def train(self, mode: bool = True) -> Self:
        """Set the mode, and drop the cache of a trained weight, since the writes of fused optimizers are not
        noticed.
        """
        if mode and any(source.requires_grad for source in self._sources()):
            self._cache.clear()
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._cache.clear()
        self._packed = {bits: held.moved(fn) for bits, held in self._packed.items()}
        moved = cast(Self, super()._apply(fn, recurse))
        self._fixed = {bits: _moved(quantized, self.weight.device) for bits, quantized in self._fixed.items()}
        return moved


def _moved(quantized: QuantizedTensor, device: torch.device) -> QuantizedTensor:
    """Return ``quantized`` on ``device``; a cast of the weight leaves a grid in fp32."""
    zero_point = None if quantized.zero_point is None else quantized.zero_point.to(device)
    return QuantizedTensor(quantized.codes.to(device), QParams(quantized.scale.to(device), zero_point), quantized.bits)
