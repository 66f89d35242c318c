"""Logarithmic quantization (docs/methods/quantizers.md, "log"): a sign, zero, and n = 2^(b-1) - 1 magnitudes, geometric
from m down.

    D = R / (n - 1),  k = rne(log2(|x| / m) / D) in {0, -1, ..., -(n-1)},  x^ = sign(x) m 2^(k D)
    x^ = 0 where log2(|x| / m) < -(n-1) D - D/2

R is the reach in octaves. With pure powers of two (R = n - 1) a value may be off by 41 %, whatever the width, because
extra bits only reach further down. More bits become finer only with a fixed reach. ``octaves="mse"``, the default,
takes for each group the R of 1..12 with the least squared error. That costs a dozen encodings, which is affordable once
per weight; give a number (8 suits 8 bits) for activations.  A value is off by at most 2^(D/2) - 1 of itself.

Two bits have one magnitude: the levels are -m, 0 and m, and a value below m/2 becomes zero. One bit is the symmetric
sign * mean. The code is sign * (n + k), so codes have the order of values and 0 is zero. The formula is this project's
own: S4 (docs/systems.md) uses a logarithmic quantizer and gives none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from qalof.errors import BadInputError
from qalof.laws import Positive
from qalof.quantization.granularity import absolute_maximum, mean_magnitude
from qalof.quantization.quantizer import QParams, Quantizer

CANDIDATES = range(1, 13)


@dataclass(frozen=True, kw_only=True)
class Log(Quantizer, method="log"):
    """Signed codes for geometric magnitudes; ``qparams.scale`` is m and ``qparams.zero_point`` is R."""

    octaves: Literal["mse", "power_of_two"] | Positive = "mse"
    """The reach below the maximum in octaves (R): a number, ``mse`` for the one of the least squared error, or
    ``power_of_two`` for n - 1."""

    has_zero_point: ClassVar[bool] = True

    def code_range(self, bits: float) -> tuple[int, int]:
        """Let the codes reach from -n to n; n is rounded half up where the width is real."""
        highest = max(1, self._levels(2 ** (bits - 1) - 1)[1])
        return -highest, highest

    def _grid_of(self, x: torch.Tensor, bits: float) -> QParams:
        if bits == 1:
            mean = self._stored(mean_magnitude(x))
            return QParams(mean, torch.ones_like(mean))
        maximum = absolute_maximum(x)
        if self.octaves != "mse":
            return self._qparams_of_range(-maximum, maximum, bits)
        x, maximum = x.contiguous(), self._stored(maximum)
        best, least = torch.ones_like(maximum), torch.full_like(maximum, torch.inf)
        for octaves in CANDIDATES:
            reach = torch.full_like(maximum, octaves)
            qparams = QParams(maximum, reach)
            error = (self._values(self._codes(x, qparams, bits), qparams, bits) - x).square().mean(dim=-1, keepdim=True)
            best = torch.where(error < least, reach, best)
            least = torch.minimum(error, least)
        return QParams(maximum, best)

    def _qparams_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> QParams:
        if bits == 1 or self.octaves == "mse":
            raise BadInputError(
                "log quantization in a static range needs a number of octaves and 2 bits or more: "
                f"got {self.octaves!r} at {bits} bits; octaves 8 suits 8 bits"
            )
        maximum = self._stored(torch.maximum(high, -low))
        octaves = self.code_range(bits)[1] - 1 if self.octaves == "power_of_two" else self.octaves
        return QParams(maximum, self._stored(torch.full_like(maximum, float(octaves))))

    def _codes(self, x: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        if bits == 1:
            return torch.ones_like(x).masked_fill_(x < 0, -1)
        count = self.code_range(bits)[1]
        ratio = x.abs() / torch.where(qparams.scale == 0, 1.0, qparams.scale)
        if count == 1:
            return x.sign() * (ratio >= 0.5)
        level = ratio.clamp_(min=torch.finfo(ratio.dtype).tiny).log2_().div_(self._step(qparams, count))
        reached = level >= 0.5 - count
        magnitude = level.round_().clamp_(1 - count, 0).add_(count)
        return magnitude.mul_(x.sign()).mul_(reached)

    def _values(self, codes: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        count = self.code_range(bits)[1]
        if bits == 1 or count == 1:
            return codes.mul_(qparams.scale)
        sign = codes.sign()
        exponent = codes.abs_().sub_(count).mul_(self._step(qparams, count))
        # in fp64, since fp32 exp2 differs in its last bit between strided, short and long tensors
        return exponent.to(torch.float64).exp2_().to(exponent.dtype).mul_(qparams.scale).mul_(sign)

    @staticmethod
    def _step(qparams: QParams, count: int) -> torch.Tensor:
        """Return D, in octaves."""
        assert qparams.zero_point is not None
        return qparams.zero_point / (count - 1)
