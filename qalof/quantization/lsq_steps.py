"""The learned step sizes of LSQ as parameters (arXiv 1902.08153; docs/methods/quantizers.md, "lsq").

There is one step size per width (``per_bit``), or one for all widths, s_b = s_ref Qp_ref / Qp_b (``shared``, where the
reference has 8 bits). The step sizes of a weight are set from the weight when they are made. Those of an activation are
set by the first batch that passes in training or calibration. The state records that they are set, so a loaded model
does not start over; evaluating before they are set is an error. The parameter object never changes, since an optimizer
may refer to it already (``lsq-net`` replaces it and then trains a tensor that nobody reads). The ranks of
``torch.distributed`` start from their mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from qalof.errors import BadInputError
from qalof.precision import all_finite
from qalof.quantization.granularity import Granularity, group_count
from qalof.quantization.methods.lsq import Lsq
from qalof.quantization.quantizer import QParams
from qalof.quantization.scale_storage import round_up
from qalof.quantization.straight_through import straight_through

REFERENCE_BITS = 8
SMALLEST = 1e-8


class LsqSteps(nn.Module):
    """Learned step sizes by width.

    Args:
        quantizers: width -> its quantizer; all quantizers with a ``shared`` step must be equal.
        features: length of the last dimension of what is quantized.
        weight: (out, in), or None for activations.
        place: the name of the site, for errors.

    Raises:
        BadInputError: Different quantizers would share one step.
    """

    def __init__(self, quantizers: Mapping[int, Lsq], features: int, weight: torch.Tensor | None, place: str) -> None:
        super().__init__()
        self.quantizers, self.place = dict(quantizers), place
        sharing = {quantizer for quantizer in quantizers.values() if quantizer.step_mode == "shared"}
        if len(sharing) > 1:
            raise BadInputError(f"one step is shared by one quantizer: {place} has {len(sharing)}; take per_bit")
        self.steps = nn.ParameterDict()
        self._ready: dict[str, bool] = {}  # the buffers as Python values, which need no read of the device
        for bits, quantizer in self.quantizers.items():
            key = self._key(bits)
            if key in self.steps:
                continue
            if weight is not None:
                step = quantizer.qparams(weight, self._own_bits(bits)).scale
            else:
                step = torch.ones(_static_shape(quantizer, features))
            self.steps[key] = nn.Parameter(_stored(step, quantizer))
            self.register_buffer(f"ready_{key}", torch.tensor(weight is not None))
            self._ready[key] = weight is not None

    def qparams(self, x: torch.Tensor, bits: float, *, start: bool) -> QParams:
        """Return the grid of this width, differentiable in its step; with ``start``, ``x`` sets a step that is unset.

        Raises:
            BadInputError: The width has no step, or its step is not set yet.
        """
        quantizer = self.quantizers.get(int(bits)) if bits == int(bits) else None
        if quantizer is None:
            raise BadInputError(
                f"lsq has a step for each of {sorted(self.quantizers)} bits: got {bits}; add it to widths"
            )
        key = self._key(int(bits))
        if not self._ready[key]:
            if not start:
                raise BadInputError(
                    f"an lsq step must be set by a first batch: {self.place} has none at {bits} bits; "
                    "run calibrate(model, batches), or train"
                )
            self._start(x, int(bits), quantizer)
        raw = self.steps[key]
        if quantizer.parametrization == "log":
            step = raw.exp()
        else:
            # the gradient passes the clamp; otherwise a step that fell below it could never come back
            step = straight_through(raw, raw.detach().clamp(min=SMALLEST), None)
        if quantizer.step_mode == "shared":
            step = step * (quantizer.code_range(REFERENCE_BITS)[1] / quantizer.code_range(bits)[1])
        if quantizer.stored_dtype is not torch.float32:
            step = straight_through(step, round_up(step.detach(), quantizer.stored_dtype), None)
        return QParams(step)

    def ready(self, bits: float) -> bool:
        """Return whether the step of this width is set, or the width has no step to set."""
        return bits not in self.quantizers or self._ready[self._key(int(bits))]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._ready = {key: bool(getattr(self, f"ready_{key}")) for key in self._ready}

    @torch.no_grad()
    def _start(self, x: torch.Tensor, bits: int, quantizer: Lsq) -> None:
        if not all_finite(x):
            raise BadInputError(f"calibration data must be finite: {self.place} got NaN or infinity")
        key = self._key(bits)
        step = quantizer.static_grid(x, self._own_bits(bits)).scale
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(step)
            step /= torch.distributed.get_world_size()
        self.steps[key].copy_(_stored(step, quantizer))
        getattr(self, f"ready_{key}").fill_(True)
        self._ready[key] = True

    def _key(self, bits: int) -> str:
        return "shared" if self.quantizers[bits].step_mode == "shared" else str(bits)

    def _own_bits(self, bits: int) -> int:
        return REFERENCE_BITS if self.quantizers[bits].step_mode == "shared" else bits


def _stored(step: torch.Tensor, quantizer: Lsq) -> torch.Tensor:
    return step.log() if quantizer.parametrization == "log" else step.clone()


def _static_shape(quantizer: Lsq, features: int) -> tuple[int, ...]:
    if quantizer.granularity is Granularity.TENSOR:
        return ()
    assert quantizer.group_size is not None
    return (group_count(features, quantizer.group_size),)
