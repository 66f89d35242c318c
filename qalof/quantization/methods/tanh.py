"""Tanh quantization, a uniform grid in the range of tanh (DoReFa, arXiv 1606.06160; docs/methods/quantizers.md,
"tanh").

    t = tanh(x),  M = max|t|,  w = 2 rne((t / 2M + 1/2) n) / n - 1,  n = 2^b - 1

DoReFa outputs w in [-1, 1] and relies on the batch normalization behind it, which a transformer does not have:
``rescale="none"`` destroys the magnitudes of a pretrained model.  ``"linear"``, the default, gives w M, and ``"atanh"``
maps back exactly: atanh(w M).  The number of levels is even, so 0 is not one of them: it becomes M / n or -M / n by the
tie rule. A zero group comes back as zeros. The tanh of fp32 reaches 1 at about 9, so ``atanh`` returns about 9 for
larger values. With ``ste="tanh"``, the default of this method, the gradient passes the rounding unchanged and the tanh
exactly, for a constant M.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from qalof.quantization.granularity import absolute_maximum
from qalof.quantization.quantizer import QParams, Quantizer
from qalof.quantization.straight_through import StraightThrough


@dataclass(frozen=True, kw_only=True)
class Tanh(Quantizer, method="tanh"):
    """Codes are 0..n; ``qparams.scale`` is M."""

    rescale: Literal["linear", "none", "atanh"] = "linear"
    """How levels in [-1, 1] come back to the size of the input: times M, through the inverse of tanh, or not at all."""
    ste: StraightThrough = StraightThrough.TANH
    """Which gradient passes the rounding."""

    def code_range(self, bits: float) -> tuple[int, int]:
        """Let the codes reach from 0 to n, which is rounded half up where it is real."""
        return 0, self._levels(2**bits - 1)[1]

    def _qparams_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> QParams:
        return QParams(self._stored(torch.tanh(torch.maximum(high, -low))))

    def _grid_of(self, x: torch.Tensor, bits: float) -> QParams:
        maximum = absolute_maximum(x)
        return self._qparams_of_range(-maximum, maximum, bits)

    def _codes(self, x: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        divisor, highest = self._levels(2**bits - 1)
        unit = torch.tanh(x).div_(2 * torch.where(qparams.scale == 0, 1.0, qparams.scale)).add_(0.5)
        return unit.mul_(divisor).round_().clamp_(0, highest)

    def _values(self, codes: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        w = codes.div_(self._levels(2**bits - 1)[0]).mul_(2).sub_(1)
        if self.rescale == "none":
            return w.mul_(qparams.scale != 0)
        w.mul_(qparams.scale)
        if self.rescale == "linear":
            return w
        below_one = 1 - torch.finfo(w.dtype).eps / 2  # the largest such number: atanh of 1 would be infinite
        # in fp64, since fp32 atanh differs in its last bit between strided, short and long tensors
        return w.clamp_(-below_one, below_one).to(torch.float64).atanh_().to(w.dtype)

    def _tanh_factor(self, x: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        slope = 1 - torch.tanh(x).square()
        if self.rescale == "none":
            return slope / torch.where(qparams.scale == 0, 1.0, qparams.scale)
        if self.rescale == "linear":
            return slope
        value = self._values(self._codes(x, qparams, bits), qparams, bits)
        return slope / (1 - torch.tanh(value).square()).clamp(min=torch.finfo(slope.dtype).eps)
