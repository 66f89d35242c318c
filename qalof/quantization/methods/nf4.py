"""NF4 (QLoRA, arXiv 2305.14314; bitsandbytes' code): sixteen quantiles of a normal distribution, in blocks of 64.

    s = max|x| over the block,  q = the index of the level nearest to x (1 / s),  x^ = level[q] s

Codebook and arithmetic are those of bitsandbytes 0.50 on a CPU, and the codes are equal where 64 divides a row: its
blocks continue across the ends of rows, and ours do not. Block scales are not quantized a second time here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from qalof.quantization.granularity import Granularity, absolute_maximum
from qalof.quantization.options import GroupSize
from qalof.quantization.quantizer import QParams, Quantizer

CODEBOOK = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NormalFloat4(Quantizer, method="nf4"):
    """Codes are the indices 0..15; the method has 4 bits only."""

    granularity: Granularity = Granularity.GROUP
    """Which elements share a scale."""
    group_size: GroupSize | None = 64
    """How many features share a scale; QLoRA has 64."""

    only_bits: ClassVar[int | None] = 4

    def code_range(self, bits: float) -> tuple[int, int]:
        """Let the codes reach from 0 to 15."""
        return 0, 15

    def _grid_of(self, x: torch.Tensor, bits: float) -> QParams:
        maximum = absolute_maximum(x)
        return self._qparams_of_range(-maximum, maximum, bits)

    def _qparams_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> QParams:
        scale = self._stored(torch.maximum(high, -low))
        return QParams(torch.where(scale == 0, torch.ones_like(scale), scale))

    def _codes(self, x: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        levels = torch.tensor(CODEBOOK, dtype=x.dtype, device=x.device)
        return torch.bucketize((x * (1 / qparams.scale)).contiguous(), (levels[1:] + levels[:-1]) / 2).to(x.dtype)

    def _values(self, codes: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        return torch.tensor(CODEBOOK, dtype=codes.dtype, device=codes.device)[codes.long()] * qparams.scale
