"""The base of every quantizer: a frozen record of its options with pure functions on tensors.

A quantizer has ``quantize`` (tensor -> codes and grid), ``dequantize`` (back) and ``fake_quantize``, which equals
``dequantize(quantize(x))`` number for number and carries a straight-through gradient.  A *grid* is the scale of each
group and, where the method has one, a second parameter ``zero_point``.  It is computed from the tensor itself
(dynamic), or passed in: from an observer's range, from learned steps, or from a packed file.

A method is one class in one file of :mod:`qalof.quantization.methods`.  It says how a grid comes from a group's
range, how numbers become codes, and how codes become numbers; the group is always the last dimension, in fp32, or in
fp64 where the tensor is (:mod:`qalof.precision`).
Everything else is here and in :mod:`qalof.quantization.options`: granularity, widths, estimators, JSON.

Widths may be real (docs/methods/quantizers.md, "Real-valued bit-widths"). ``round`` keeps the real divisor and clamps
codes to it rounded half up, so half a step bounds the error everywhere. ``floor`` uses the whole number of levels
below. ``mix`` computes (1 - f) fq_floor(b) + f fq_ceil(b), which has a gradient in b but no codes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from qalof.errors import BadInputError
from qalof.precision import all_finite, at_least_float32
from qalof.quantization import granularity as grouping
from qalof.quantization.granularity import Granularity
from qalof.quantization.options import HIGHEST_BITS, QuantizerOptions
from qalof.quantization.scale_storage import round_up
from qalof.quantization.straight_through import StraightThrough, straight_through


class QParams(NamedTuple):
    """The parameters that say where the representable values lie, in fp32 or fp64.

    Its shape is () for tensor, (..., 1) for channel and token, (..., groups) for group and head. The method decides
    what ``zero_point`` is: the lowest value or the zero point (asymmetric), octaves (log), or None.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor | None = None


@dataclass(frozen=True)
class QuantizedTensor:
    """The codes of a tensor and their grid; codes are int16 (int32 where 16 unsigned bits need it), in its shape."""

    codes: torch.Tensor
    qparams: QParams
    bits: float

    @property
    def scale(self) -> torch.Tensor:
        """The scale of the grid."""
        return self.qparams.scale

    @property
    def zero_point(self) -> torch.Tensor | None:
        """The zero of the grid; None where the method has none."""
        return self.qparams.zero_point


class Quantizer(QuantizerOptions, ABC):
    """A quantization method with its options."""

    # --- a method defines these, on groups in the last dimension, in fp32 or fp64 ---

    @abstractmethod
    def code_range(self, bits: float) -> tuple[int, int]:
        """Return the lowest and the highest code."""

    @abstractmethod
    def _qparams_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> QParams:
        """Return the grid for values from ``low`` to ``high``, each (..., 1), rounded by ``_stored`` where need be."""

    def _grid_of(self, x: torch.Tensor, bits: float) -> QParams:
        """Return the grid for groups ``x`` (..., group) -> (..., 1); methods that use means override it."""
        return self._qparams_of_range(x.amin(dim=-1, keepdim=True), x.amax(dim=-1, keepdim=True), bits)

    @abstractmethod
    def _codes(self, x: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        """Return codes as whole numbers in the dtype of ``x``, in a new tensor."""

    @abstractmethod
    def _values(self, codes: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        """Return the values of codes, which are whole numbers in the dtype of the grid and may be overwritten."""

    @property
    def zero_dtype(self) -> torch.dtype:
        """The dtype in which a packed file stores ``qparams.zero_point``; it represents it exactly."""
        return self.stored_dtype

    def _tanh_factor(self, x: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        """Return the factor by which the estimator ``tanh`` multiplies the gradient."""
        return 1 - torch.tanh(x).square()

    # --- all methods share these ---

    @property
    def stored_dtype(self) -> torch.dtype:
        """The dtype in which a packed file stores scales."""
        return torch.float32 if self.scale_dtype == "float32" else torch.float16

    def quantize(self, x: torch.Tensor, bits: float, qparams: QParams | None = None) -> QuantizedTensor:
        """Return codes and grid of ``x``.

        Raises:
            BadInputError: The width is full precision or mixed, which have no codes, or it does not exist, or ``x``
                contains NaN or infinity.
        """
        if bits >= self.full_precision_bits:
            raise BadInputError(f"full precision has no codes to quantize to: got {bits} bits; widths below it have")
        if self.fractional_bits == "interpolate" and bits != int(bits):
            raise BadInputError(f"mixed widths have no codes: got {bits} bits; quantize to the widths on either side")
        if not all_finite(x):
            raise BadInputError("a tensor must be finite to be quantized: it holds NaN or infinity")
        with torch.no_grad():
            qparams = qparams or self.qparams(x, bits)
            coded = [self._codes(piece, part, bits) for piece, part in self._pieces(x, qparams)]
            codes = grouping.from_groups(coded, self.granularity, x.shape)
        wide = self.code_range(bits)[1] > torch.iinfo(torch.int16).max
        return QuantizedTensor(codes.to(torch.int32 if wide else torch.int16), qparams, bits)

    def dequantize(self, quantized: QuantizedTensor) -> torch.Tensor:
        """Return the values of codes, in the dtype of the grid (fp32 or fp64) and the shape of the codes."""
        with torch.no_grad():
            # integers become floats by a copy, which the method may overwrite
            codes = quantized.codes.to(at_least_float32(quantized.qparams.scale).dtype)
            pieces = self._pieces(codes, quantized.qparams)
            values = [self._values(piece, part, quantized.bits) for piece, part in pieces]
            return grouping.from_groups(values, self.granularity, quantized.codes.shape)

    def fake_quantize(
        self, x: torch.Tensor, bits: float | torch.Tensor, qparams: QParams | None = None
    ) -> torch.Tensor:
        """Round ``x`` to the grid of ``bits``; the result has its shape and dtype, and the estimator's gradient.

        ``bits`` may be a scalar tensor under ``fractional_bits="interpolate"``, which is differentiable in it.  There
        is no check for non-finite numbers, since this runs on every activation.
        """
        if self.fractional_bits == "interpolate" and (isinstance(bits, torch.Tensor) or bits != int(bits)):
            return self._mixed(x, bits, qparams)
        bits = bits.item() if isinstance(bits, torch.Tensor) else bits
        if bits >= self.full_precision_bits:
            return x
        self.check_bits(bits)
        needs_factor = self.ste is not StraightThrough.IDENTITY and torch.is_grad_enabled() and x.requires_grad
        with torch.no_grad():
            if self.granularity.row_is_group and not needs_factor:
                # this runs on every activation, where the bookkeeping of groups would take as long as the rounding
                wide = at_least_float32(x)
                used = qparams or self._grid_of(wide, bits)
                rounded, factor = self._values(self._codes(wide, used, bits), used, bits).to(x.dtype), None
            else:
                rounded, factor = self._by_pieces(x, bits, qparams, needs_factor)
        return straight_through(x, rounded, factor)

    def quantize_int8(self, x: torch.Tensor, bits: float, qparams: QParams | None = None) -> QuantizedTensor:
        """Return codes of up to 8 bits in int8, for a product of integers, with one scale per row or one per tensor.

        There is no check for non-finite numbers here either; they make the scale NaN, and with it every product of
        their row or tensor.
        """
        with torch.no_grad():
            wide = at_least_float32(x)
            if qparams is not None:
                qparams = QParams(qparams.scale + 0 * wide.sum(dim=-1, keepdim=True))
            else:
                qparams = self._grid_of(wide, bits) if self.granularity.row_is_group else self.qparams(wide, bits)
            return QuantizedTensor(self._codes(wide, qparams, bits).to(torch.int8), qparams, bits)

    def qparams(self, x: torch.Tensor, bits: float) -> QParams:
        """Return the grid of ``x`` from its own values."""
        self.check_bits(bits)
        with torch.no_grad():
            parts = [self._grid_of(piece, bits) for piece in self._groups(x)]
            scale = grouping.scale_from_groups([part.scale for part in parts], self.granularity)
            zeros = [part.zero_point for part in parts if part.zero_point is not None]
            return QParams(scale, grouping.scale_from_groups(zeros, self.granularity) if zeros else None)

    def static_grid(self, x: torch.Tensor, bits: float) -> QParams:
        """Return one grid for all tokens of ``x`` (..., tokens, features): () for tensor, (groups,) for group and
        head.
        """
        self.check_bits(bits)
        shape = () if self.granularity is Granularity.TENSOR else (-1,)
        with torch.no_grad():
            parts = [self._grid_of(piece, bits) for piece in self.static_groups(x)]
            zeros = [part.zero_point for part in parts if part.zero_point is not None]
            zero_point = torch.cat(zeros).reshape(shape) if zeros else None
            return QParams(torch.cat([part.scale for part in parts]).reshape(shape), zero_point)

    def static_groups(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the groups of all tokens, each piece (groups, elements), in fp32 or fp64.

        See :func:`qalof.quantization.granularity.to_static_groups`.
        """
        if self.granularity.grouped:
            self.check_shape(x.shape[-1])
        return grouping.to_static_groups(at_least_float32(x), self.granularity, self.group_size)

    def grid_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> QParams:
        """Return the grid for a range known beforehand; ``low`` and ``high`` have the shape of the scale."""
        self.check_bits(bits)
        with torch.no_grad():
            return self._qparams_of_range(at_least_float32(low), at_least_float32(high), bits)

    def error_in_range(self, groups: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: float) -> torch.Tensor:
        """Return the mean squared error of each of ``groups`` (groups, elements), rounded in its range ``low`` ..
        ``high``.
        """
        qparams = self._qparams_of_range(low.unsqueeze(-1), high.unsqueeze(-1), bits)
        return (self._values(self._codes(groups, qparams, bits), qparams, bits) - groups).square().mean(dim=-1)

    def _by_pieces(
        self, x: torch.Tensor, bits: float, qparams: QParams | None, needs_factor: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return ``x`` rounded, and the factor of its gradient, at any granularity."""
        pieces = list(self._pieces(x, qparams or self.qparams(x, bits)))
        values = [self._values(self._codes(piece, part, bits), part, bits) for piece, part in pieces]
        rounded = grouping.from_groups(values, self.granularity, x.shape).to(x.dtype)
        if not needs_factor:
            return rounded, None
        factors = [self._factor(piece, part, bits, clips=qparams is not None) for piece, part in pieces]
        return rounded, grouping.from_groups(factors, self.granularity, x.shape).to(x.dtype)

    def _levels(self, count: float) -> tuple[float, int]:
        """Return the divisor of the range and the largest code, for ``count`` steps, which may not be whole."""
        if self.fractional_bits == "floor":
            return math.floor(count), math.floor(count)
        return count, math.floor(count + 0.5)

    def _stored(self, scale: torch.Tensor) -> torch.Tensor:
        return round_up(scale, self.stored_dtype)

    def _groups(self, x: torch.Tensor) -> list[torch.Tensor]:
        if self.granularity.grouped:
            self.check_shape(x.shape[-1])
        return grouping.to_groups(at_least_float32(x), self.granularity, self.group_size)

    def _pieces(self, x: torch.Tensor, qparams: QParams) -> Iterator[tuple[torch.Tensor, QParams]]:
        """Yield the groups of ``x`` in fp32 or fp64, each piece with its part of the grid, which broadcasts against
        it.
        """
        pieces = self._groups(x)
        features = x.shape[-1] if x.dim() else 1
        scales = grouping.scale_to_groups(qparams.scale, self.granularity, features, self.group_size)
        if qparams.zero_point is None:
            return ((piece, QParams(scale)) for piece, scale in zip(pieces, scales, strict=True))
        zeros = grouping.scale_to_groups(qparams.zero_point, self.granularity, features, self.group_size)
        return (
            (piece, QParams(scale, zero_point)) for piece, scale, zero_point in zip(pieces, scales, zeros, strict=True)
        )

    def _factor(self, x: torch.Tensor, qparams: QParams, bits: float, *, clips: bool) -> torch.Tensor:
        if self.ste is StraightThrough.MASKED:
            return (x.abs() < self.ste_limit).to(x.dtype)
        if self.ste is StraightThrough.TANH:
            return self._tanh_factor(x, qparams, bits)
        if not clips:  # no value lies outside a range that is taken from the group itself
            return torch.ones_like(x)
        lowest, highest = self.code_range(bits)
        ends = [self._values(torch.full_like(qparams.scale, code), qparams, bits) for code in (lowest, highest)]
        low, high = torch.minimum(*ends), torch.maximum(*ends)  # a scale may be negative
        slack = (high - low) * 1e-6  # the ends themselves count as inside, whatever the last bit of Q * s is
        return ((x >= low - slack) & (x <= high + slack)).to(x.dtype)

    def _mixed(self, x: torch.Tensor, bits: float | torch.Tensor, qparams: QParams | None) -> torch.Tensor:
        if qparams is not None:
            raise BadInputError("mixed widths have no grid of their own: got a static grid; take fractional_bits round")
        low = math.floor(bits.item() if isinstance(bits, torch.Tensor) else bits)
        fraction = bits - low
        below = self.fake_quantize(x, low)
        # at a whole width, the slope to the next one is still the derivative from the right
        above = self.fake_quantize(x, min(low + 1, HIGHEST_BITS) if low <= HIGHEST_BITS else low)
        mixed = (1 - fraction) * at_least_float32(below) + fraction * at_least_float32(above)
        return mixed.to(x.dtype)
