"""A tensor scheme at one place of a model, with the state it may have there: learned steps or static ranges."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from qalof.errors import BadInputError
from qalof.quantization.lsq_steps import LsqSteps
from qalof.quantization.methods.lsq import Lsq
from qalof.quantization.observers import StaticRanges
from qalof.quantization.quantizer import Encoded, Grid, Quantizer
from qalof.quantization.scheme import TensorScheme


class TensorQuantizer(nn.Module):
    """Fake-quantizes what passes; without steps and ranges it is a pure function and has no state.

    Args:
        scheme: which quantizer at which width.
        features: length of the last dimension.
        place: names it in errors, such as ``h.0.mlp.c_fc activation``.
        widths: those with learned steps.
        weight: (out, in), where it is a weight that is quantized.
    """

    def __init__(
        self,
        scheme: TensorScheme,
        features: int,
        place: str,
        widths: Sequence[int] = (),
        weight: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.scheme, self.place = scheme, place
        for quantizer in scheme.all():
            quantizer.check_shape(features)
        learned = _learned(scheme, widths, place)
        self.steps = LsqSteps(learned, features, weight, place) if learned else None
        self.ranges = None if scheme.observer is None else StaticRanges(scheme.observer, place)
        self.calibrating = False

    def forward(self, x: torch.Tensor, bits: float) -> torch.Tensor:
        """``x`` (..., tokens, features) rounded to the grid of ``bits``; ``x`` itself at pass-through."""
        quantizer = self.scheme.at(bits)
        if bits >= quantizer.passthrough_bits:
            return x
        if self.scheme.outliers is None:
            return quantizer.fake_quantize(x, bits, self.grid(x, bits, quantizer))
        large = x.abs() >= self.scheme.outliers
        # as bitsandbytes does: what else lies in such a feature is not rounded either, but counts in its token's range
        rounded = quantizer.fake_quantize(x.masked_fill(large, 0), bits)
        return torch.where(large.flatten(0, -2).any(dim=0), x.to(torch.float16).to(x.dtype), rounded)

    def encode_int8(self, x: torch.Tensor, bits: float) -> Encoded:
        """Codes in int8 and their grid, of which :meth:`forward` gives the values; no outliers, no gradient."""
        quantizer = self.scheme.at(bits)
        return quantizer.encode_int8(x, bits, self.grid(x, bits, quantizer))

    def grid(self, x: torch.Tensor, bits: float, quantizer: Quantizer) -> Grid | None:
        """The grid that steps or ranges give; None for a dynamic one."""
        if self.steps is not None and isinstance(quantizer, Lsq):
            return self.steps.grid(x, bits, start=self.training or self.calibrating)
        if self.ranges is not None:
            return self.ranges.grid(x, bits, quantizer)
        return None

    def calibrate(self, on: bool) -> None:
        """Observe ranges and set steps from now on, or stop to."""
        self.calibrating = on
        if self.ranges is not None:
            self.ranges.observing = on


def _learned(scheme: TensorScheme, widths: Sequence[int], place: str) -> dict[int, Lsq]:
    learned = {bits: quantizer for bits, quantizer in scheme.by_width.items() if isinstance(quantizer, Lsq)}
    if isinstance(scheme.quantizer, Lsq):
        own = {bits: scheme.quantizer for bits in widths if bits not in scheme.by_width}
        own = {bits: quantizer for bits, quantizer in own.items() if bits < quantizer.passthrough_bits}
        if not own:
            raise BadInputError(f"lsq must know its widths to have steps for them: {place} has none; set widths")
        learned |= own
    return learned
