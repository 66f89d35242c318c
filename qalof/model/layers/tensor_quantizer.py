"""A tensor scheme at one place of a model, with its state there, if any: learned steps or static ranges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn

from qalof.errors import BadInputError
from qalof.layer_bits import WeightWidth, bits_of
from qalof.model.layers.real_tokens import RealTokens, watch
from qalof.model.layers.rounded_input import RoundedInput
from qalof.quantization.granularity import Granularity
from qalof.quantization.lsq_steps import LsqSteps
from qalof.quantization.methods.lsq import Lsq
from qalof.quantization.observers import StaticRanges
from qalof.quantization.quantizer import QParams, QuantizedTensor, Quantizer
from qalof.quantization.scheme import QuantizationScheme, TensorScheme


class TensorQuantizer(nn.Module):
    """Fake-quantize what passes; without steps and ranges this is a pure function and has no state.

    Args:
        scheme: which quantizer is used at which width.
        features: the length of the last dimension.
        place: a name for errors, such as ``h.0.mlp.c_fc activation``.
        widths: the widths with learned steps.
        weight: (out, in), where a weight is quantized.
        tokens: the batch that the model is running on, where tokens are quantized; None for a weight.
    """

    def __init__(
        self,
        scheme: TensorScheme,
        features: int,
        place: str,
        widths: Sequence[int] = (),
        weight: torch.Tensor | None = None,
        tokens: RealTokens | None = None,
    ) -> None:
        super().__init__()
        self.scheme, self.place, self.tokens = scheme, place, tokens
        for quantizer in scheme.all():
            quantizer.check_shape(features)
        learned = _learned(scheme, widths, place)
        self.steps = LsqSteps(learned, features, weight, place) if learned else None
        self.ranges = None if scheme.observer is None else StaticRanges(scheme.observer, place)
        self.calibrating = False
        self.last: RoundedInput | None = None
        # not at the first forward, which may be that of a graph of torch.compile
        self._of_rows = _as_tokens(scheme) if scheme.row_ranges else scheme

    def forward(self, x: torch.Tensor, width: WeightWidth) -> torch.Tensor:
        """Return ``x`` (..., tokens, features) rounded to the grid of ``width``; ``x`` itself at full precision.

        Only a weight has widths with a group size.
        """
        quantizer, bits = self.scheme.at(width), bits_of(width)
        if bits >= quantizer.full_precision_bits:
            return x
        if self.last is not None:
            return self.last.get(x, (quantizer, bits), lambda: quantizer.fake_quantize(x, bits))
        if self.scheme.outlier_threshold is not None:
            return self._beside_outliers(x, bits, quantizer, self.scheme.outlier_threshold)
        if self._one_range_per_row(quantizer):
            return self._rounded_by_row(x, bits)
        return quantizer.fake_quantize(x, bits, self.qparams(x, bits, quantizer))

    def quantize_int8(self, x: torch.Tensor, bits: float) -> QuantizedTensor:
        """Return codes in int8 and their grid, whose values :meth:`forward` returns; there are no outliers and no
        gradient.
        """
        quantizer = self.scheme.at(bits)
        if self.last is not None:
            return self.last.get(x, (quantizer, bits, torch.int8), lambda: quantizer.quantize_int8(x, bits))
        if self._one_range_per_row(quantizer):
            return quantizer.quantize_int8(x, bits, self._grid_per_row(x, bits, quantizer))
        return quantizer.quantize_int8(x, bits, self.qparams(x, bits, quantizer))

    def qparams(self, x: torch.Tensor, width: WeightWidth, quantizer: Quantizer) -> QParams | None:
        """Return the grid that steps or ranges give; None for a dynamic one."""
        bits = bits_of(width)
        if self.steps is not None and isinstance(quantizer, Lsq):
            start = (self.training or self.calibrating) and not self.steps.ready(bits)
            return self.steps.qparams(self._real(x) if start else x, bits, start=start)
        if self.ranges is not None:
            return self.ranges.qparams(x, bits, quantizer, seen=self._real(x) if self.ranges.observing else x)
        return None

    def _real(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.tokens is None else self.tokens.real(x)

    def _one_range_per_row(self, quantizer: Quantizer) -> bool:
        """Return whether tokens share a dynamic range, which is that of one row
        (:mod:`qalof.model.layers.real_tokens`).
        """
        static = self.ranges is not None or (self.steps is not None and isinstance(quantizer, Lsq))
        return self.tokens is not None and not static and quantizer.granularity is Granularity.TENSOR

    def _rounded_by_row(self, x: torch.Tensor, bits: float) -> torch.Tensor:
        assert self.tokens is not None
        rows, mask = self.tokens.rows(x)
        # a row that is seen as one long token has the range of a tensor
        as_token = self._of_rows.at(bits)
        if mask is None:
            return as_token.fake_quantize(rows.flatten(1), bits).reshape(x.shape)
        rounded = []
        for row, real in zip(rows, mask, strict=True):
            if not bool(real.any()):
                rounded.append(row)
                continue
            kept = as_token.fake_quantize(row[real].reshape(1, -1), bits).reshape(-1, row.shape[-1])
            rounded.append(torch.index_put(row, (real,), kept))
        return torch.stack(rounded).reshape(x.shape)

    @torch.no_grad()
    def _grid_per_row(self, x: torch.Tensor, bits: float, quantizer: Quantizer) -> QParams:
        """Return a scale for each token of ``x``, which is the scale of its row: (..., tokens, 1)."""
        assert self.tokens is not None
        rows, mask = self.tokens.rows(x)
        kept = list(rows)
        if mask is not None:
            kept = [row[real] if bool(real.any()) else row for row, real in zip(rows, mask, strict=True)]
        scales = torch.stack([quantizer.qparams(row, bits).scale for row in kept])
        return QParams(scales.reshape(-1, 1, 1).expand(*rows.shape[:2], 1).reshape(*x.shape[:-1], 1))

    def _beside_outliers(self, x: torch.Tensor, bits: float, quantizer: Quantizer, threshold: float) -> torch.Tensor:
        tokens = self.tokens or RealTokens()
        rows, mask = tokens.rows(x)
        large = rows.abs() >= threshold
        real = large if mask is None else large & mask.unsqueeze(-1)
        # as in bitsandbytes, the other values of such a feature are not rounded either, but they count in the range of
        # their token
        small = rows.masked_fill(large, 0).reshape(x.shape)
        by_row = self._one_range_per_row(quantizer)
        rounded = self._rounded_by_row(small, bits) if by_row else quantizer.fake_quantize(small, bits)
        kept = torch.where(
            real.any(dim=1, keepdim=True), rows.to(torch.float16).to(x.dtype), rounded.reshape(rows.shape)
        )
        return kept.reshape(x.shape)

    def calibrate(self, on: bool) -> None:
        """Start to observe ranges and set steps, or stop it."""
        self.calibrating = on
        if self.ranges is not None:
            self.ranges.observing = on


def share_inputs(model: nn.Module, quantizers: Iterable[TensorQuantizer]) -> None:
    """Let layers of ``model`` that read the same tensor round it once, where ``quantizers``, those of inputs, make a
    token a function of its own values alone.
    """
    last = RoundedInput()
    for quantizer in quantizers:
        if not quantizer.scheme.sees_rows:
            quantizer.last = last
    last.follow(model)


def share_tokens(model: nn.Module, scheme: QuantizationScheme) -> RealTokens:
    """Let all quantizers of tokens in ``model`` know its batches, where its ``scheme`` needs that."""
    tokens = RealTokens()
    if not scheme.sees_rows:
        return tokens
    for module in model.modules():
        if isinstance(module, TensorQuantizer) and module.tokens is not None:
            module.tokens = tokens
    watch(model, tokens)
    return tokens


def _as_tokens(scheme: TensorScheme) -> TensorScheme:
    """Return the scheme with the range of a tensor as that of one long token."""

    def changed(quantizer: Quantizer) -> Quantizer:
        whole = quantizer.granularity is Granularity.TENSOR
        return replace(quantizer, granularity=Granularity.TOKEN) if whole else quantizer

    return TensorScheme(changed(scheme.quantizer), {bits: changed(one) for bits, one in scheme.by_width.items()})


def _learned(scheme: TensorScheme, widths: Sequence[int], place: str) -> dict[int, Lsq]:
    learned = {bits: quantizer for bits, quantizer in scheme.by_width.items() if isinstance(quantizer, Lsq)}
    if isinstance(scheme.quantizer, Lsq):
        own = {bits: scheme.quantizer for bits in widths if bits not in scheme.by_width}
        own = {bits: quantizer for bits, quantizer in own.items() if bits < quantizer.full_precision_bits}
        if not own:
            raise BadInputError(f"lsq must know its widths to have steps for them: {place} has none; set widths")
        learned |= own
    return learned
