"""Learned step size quantization (LSQ, Esser et al. 2020, arXiv 1902.08153; docs/methods/quantizers.md, "lsq").

    x^ = s rne(clamp(x / s, -Qn, Qp)),  Qn = 2^(b-1), Qp = 2^(b-1) - 1  (unsigned: 0 and 2^b - 1)
    dx^/dx = 1 where -Qn <= x / s <= Qp, otherwise 0
    dx^/ds = rne(x / s) - x / s inside, -Qn below, Qp above;  dL/ds is multiplied by g = 1 / sqrt(N Qp)

The steps are parameters of :class:`qalof.quantization.lsq_steps.LsqSteps` and arrive as the grid. Without a grid, their
starting value is used, s = 2 mean|x| / sqrt(Qp). N counts the elements that share a step; for activations it counts
features only. The unofficial ``lsq-net`` counts the whole tensor for per-channel steps too, which shrinks their
gradient by sqrt(out); ``gradient_count="tensor"`` is that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch

from qalof.errors import BadInputError
from qalof.quantization import granularity as grouping
from qalof.quantization.granularity import Granularity, mean_magnitude
from qalof.quantization.quantizer import QParams, Quantizer


@dataclass(frozen=True, kw_only=True)
class Lsq(Quantizer, method="lsq"):
    """A symmetric quantizer whose step sizes are learned."""

    step_mode: Literal["per_bit", "shared"] = "per_bit"
    """``per_bit`` learns one step per bit-width; ``shared`` learns one for all, s_b = s_ref Qp_ref / Qp_b with the
    reference at 8 bits."""
    parametrization: Literal["clamp", "log"] = "clamp"
    """``clamp`` learns s and keeps it at 1e-8 or above; ``log`` learns log s."""
    signed: bool = True
    """Whether codes go below zero, which the outputs of GELU and LayerNorm need."""
    gradient_count: Literal["shared", "features", "tensor", "none"] = "shared"
    """What N counts: the elements that share a step (``shared``), those of one token (``features``, for activations),
    or the whole ``tensor`` (lsq-net); ``none`` leaves the gradient of s as it is."""

    lowest_bits: ClassVar[int] = 2
    scaled_codes: ClassVar[bool] = True

    def in_groups(self, group_size: int) -> Self:
        """Refuse: the steps are learned for the granularity of the scheme alone.

        Raises:
            BadInputError: The group size is not that of the scheme.
        """
        if self.granularity is Granularity.GROUP and self.group_size == group_size:
            return self
        own = f"granularity {self.granularity}" + (f" {self.group_size}" if self.group_size else "")
        raise BadInputError(
            f"lsq learns its steps for the granularity of its scheme alone: got a group size of {group_size} for "
            f"{own}; leave the group size out of the bitmap, or give the scheme this granularity"
        )

    def code_range(self, bits: float) -> tuple[int, int]:
        """Let the codes reach from -Qn to Qp, which are rounded half up where the width is real."""
        if not self.signed:
            return 0, self._levels(2**bits - 1)[1]
        return -self._levels(2 ** (bits - 1))[1], self._levels(2 ** (bits - 1) - 1)[1]

    def fake_quantize(
        self, x: torch.Tensor, bits: float | torch.Tensor, qparams: QParams | None = None
    ) -> torch.Tensor:
        """Round ``x`` as every quantizer does, with gradients to ``x`` and to ``qparams.scale``."""
        if isinstance(bits, torch.Tensor) or qparams is None or bits >= self.full_precision_bits:
            return super().fake_quantize(x, bits, qparams)
        self.check_bits(bits)
        rounded = []
        for piece, part in self._pieces(x, qparams):
            count = self._gradient_scale(piece, part, x, bits)
            value: torch.Tensor = _LearnedRounding.apply(piece, part.scale, self.code_range(bits), count)
            rounded.append(value)
        return grouping.from_groups(rounded, self.granularity, x.shape).to(x.dtype)

    def _gradient_scale(self, piece: torch.Tensor, part: QParams, x: torch.Tensor, bits: float) -> float:
        """Return g, by which the gradient of the step is scaled."""
        counts = {
            "shared": piece.numel() / part.scale.numel(),
            "features": piece.shape[-1] if self.granularity.grouped else x.shape[-1],
            "tensor": x.numel(),
        }
        count = counts.get(self.gradient_count)
        return 1.0 if count is None else float((count * self.code_range(bits)[1]) ** -0.5)

    def _grid_of(self, x: torch.Tensor, bits: float) -> QParams:
        step = 2 * mean_magnitude(x) / self.code_range(bits)[1] ** 0.5
        step = self._stored(step)
        return QParams(torch.where(step == 0, torch.ones_like(step), step))

    def _qparams_of_range(self, low: torch.Tensor, high: torch.Tensor, bits: float) -> QParams:
        raise BadInputError("lsq learns its steps and takes no observed range: drop the observer, or take symmetric")

    def _codes(self, x: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        return (x / qparams.scale).clamp_(*self.code_range(bits)).round_()

    def _values(self, codes: torch.Tensor, qparams: QParams, bits: float) -> torch.Tensor:
        return codes.mul_(qparams.scale)


class _LearnedRounding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, step: torch.Tensor, limits: tuple[int, int], gradient_scale: float
    ) -> torch.Tensor:
        ratio = x / step
        codes = ratio.clamp(*limits).round_()
        ctx.save_for_backward(ratio, codes, step)
        ctx.limits, ctx.gradient_scale = limits, gradient_scale
        return codes * step

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        ratio, codes, step = ctx.saved_tensors
        inside = (ratio >= ctx.limits[0]) & (ratio <= ctx.limits[1])
        slope = torch.where(inside, codes - ratio, codes)  # outside, the clamped code is the limit itself
        to_step = (grads[0] * slope).sum_to_size(step.shape) * ctx.gradient_scale
        return grads[0] * inside, to_step, None, None
