"""Symmetric MinMax to the letter of LLM-QAT's code, for comparison with its numbers (docs/methods/quantizers.md,
"symmetric").

    S = Q / (max|x| + 1e-6),  x^ = rne(x S) / (S + 1e-6)

It is ``symmetric`` up to the two epsilons.  Where max|x| is about 1e-6 they halve the codes in use.  Its estimator has
a zero gradient where |x| >= 2; ``ste="masked"`` repeats that and must be set explicitly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from qalof.errors import BadInputError
from qalof.quantization.granularity import absolute_maximum
from qalof.quantization.quantizer import QParams, Quantizer

_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class LlmQat(Quantizer, method="llm_qat"):
    """Codes are -Q..Q; ``qparams.scale`` is S, which is steps per unit instead of units per step."""

    lowest_bits: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale_dtype != "float32":
            raise BadInputError(
                "llm_qat stores S = Q / max|x|, which overflows float16 on small weights: take float32, or symmetric"
            )

    def code_range(self, bits: float) -> tuple[int, int]:
        """Let the codes reach from -Q to Q."""
        _, highest = self._levels(2 ** (bits - 1) - 1)
        return -highest, highest

    def _grid_of(self, x: torch.Tensor, bits: float) -> QParams:
        maximum = absolute_maximum(x)
        return self._qparams_of_range(-maximum, maximum, bits)

    def _qparams_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> QParams:
        divisor, _ = self._levels(2 ** (bits - 1) - 1)
        return QParams(divisor / (torch.maximum(high, -low) + _EPSILON))

    def _codes(self, x: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        # the clamp never changes a code in a group's own range, but it does in a static one
        return (x * qparams.scale).round_().clamp_(*self.code_range(bits))

    def _values(self, codes: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        return codes.div_(qparams.scale + _EPSILON)
