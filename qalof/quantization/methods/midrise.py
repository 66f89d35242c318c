"""Four levels for 2 bits, -1.5, -0.5, 0.5 and 1.5 times mean|x|, as LLM-QAT's code has them for weights of 2 bits.

    S = 2 mean|x|,  q = rne(2 clamp(x / S, -0.99, 0.99) - 1/2) in {-2, -1, 0, 1},  x^ = S (q + 1/2) / 2

A mid-rise grid has no zero and uses all four codes, whereas symmetric MinMax at 2 bits has three levels, which the
largest weight determines. A zero group comes back as zeros. LLM-QAT's code leaves *activations* of 2 bits unquantized
without saying so. Here they are quantized; give them 32 bits to repeat its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from qalof.errors import BadInputError
from qalof.quantization.granularity import mean_magnitude
from qalof.quantization.quantizer import QParams, Quantizer

_CLIP = 0.99


@dataclass(frozen=True, kw_only=True)
class MidRise(Quantizer, method="midrise2"):
    """Codes are -2..1; ``qparams.scale`` is twice the mean."""

    only_bits: ClassVar[int | None] = 2

    def code_range(self, bits: float) -> tuple[int, int]:
        """Let the codes reach from -2 to 1."""
        return -2, 1

    def _grid_of(self, x: torch.Tensor, bits: float) -> QParams:
        return QParams(self._stored(2 * mean_magnitude(x)))

    def _qparams_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> QParams:
        raise BadInputError("midrise2 is scaled by a mean, which a static range does not know: take symmetric")

    def _codes(self, x: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        scaled = x / torch.where(qparams.scale == 0, 1.0, qparams.scale)
        return scaled.clamp_(-_CLIP, _CLIP).mul_(2).sub_(0.5).round_()

    def _values(self, codes: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        return codes.add_(0.5).mul_(qparams.scale).div_(2)
