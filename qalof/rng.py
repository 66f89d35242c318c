"""Random draws that do not depend on the processor.

torch draws whole numbers, permutations and uniform numbers in [0, 1) alike everywhere.  Three things differ between
processors: ``uniform_`` from a to b and ``normal_`` in their last bit (fused multiply-add; vectorized logarithms and
cosines), and ``bernoulli_``, which uses the generator of another library on Intel processors, so dropout draws entirely
different masks there.  Within :func:`portable_draws` the first two are computed in float64 from torch's own uniform
numbers and rounded to float32 once, which gives torch's numbers up to their last bit.  A tensor in float64 is filled
with the same numbers.  :class:`PortableDropout` makes its masks of uniform numbers.

Devices other than the CPU draw as torch does: they have generators of their own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_VECTOR = 16
"""How many numbers torch's vectorized normal draws at once; fewer are drawn one by one, in float64."""


class _PortableDraws(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        drawn = {torch.ops.aten.uniform_.default: uniform_, torch.ops.aten.normal_.default: normal_}.get(func)
        here = drawn is not None and args[0].device.type == "cpu" and args[0].dtype in (torch.float32, torch.float64)
        return (drawn if drawn is not None and here else func)(*args, **(kwargs or {}))


def portable_draws() -> TorchDispatchMode:
    """Return a context in which ``uniform_`` and ``normal_`` of CPU tensors do not depend on the processor."""
    return _PortableDraws()


@torch.no_grad()
def uniform_(
    tensor: torch.Tensor, low: float = 0.0, high: float = 1.0, *, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Fill ``tensor`` (any shape, float32 or float64) with uniform numbers from ``low`` to ``high``; returns it."""
    shares = torch.rand(tensor.shape, generator=generator).to(torch.float64)
    return tensor.copy_((shares * (high - low) + low).to(torch.float32))


@torch.no_grad()
def normal_(
    tensor: torch.Tensor, mean: float = 0.0, std: float = 1.0, *, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Fill ``tensor`` (any shape, float32 or float64) with normal numbers; returns it.

    As torch's normal of float32 does: pairs of uniform numbers at a distance of 8 become pairs of normal ones (Box and
    Muller); the last 16 are drawn anew where 16 does not divide their number.
    """
    count = tensor.numel()
    if count < _VECTOR:
        found = torch.empty(count, dtype=torch.float64).normal_(generator=generator)
    else:
        found = torch.empty(count, dtype=torch.float64)
        whole = count - count % _VECTOR
        shares = torch.rand(count, generator=generator)
        found[:whole] = _box_muller(shares[:whole])
        if whole < count:
            found[-_VECTOR:] = _box_muller(torch.rand(_VECTOR, generator=generator))
    return tensor.copy_((found * std + mean).to(torch.float32).view(tensor.shape))


class PortableDropout(nn.Dropout):
    """Dropout whose mask is a function of the generator's state alone; forward and expectation as of ``nn.Dropout``."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return ``input`` (any shape) with elements set to 0 with probability p and the others divided by 1 - p."""
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return super().forward(input)
        if self.p == 1:
            return input * 0
        kept = torch.rand(input.shape, device=input.device) >= self.p
        return input * kept.to(input.dtype).div_(1 - self.p)


def make_dropout_portable(model: nn.Module) -> None:
    """Turn every ``nn.Dropout`` in ``model`` into a :class:`PortableDropout`, in place.

    Dropout that attention computes within a fused kernel is not among them: it stays torch's own.
    """
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = PortableDropout


def _box_muller(shares: torch.Tensor) -> torch.Tensor:
    """Return standard normal numbers in float64 of uniform ones, as many as 16 divides."""
    near, far = shares.to(torch.float64).view(-1, 2, _VECTOR // 2).unbind(dim=1)
    radius, angle = (-2 * (1 - near).log()).sqrt(), 2 * math.pi * far
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1).flatten()
