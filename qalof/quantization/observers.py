"""Static ranges: observe the batches that pass, then keep one range for all (docs/methods/quantizers.md, "Static
ranges").

``minmax`` keeps the extremes of all batches. ``ema`` computes new = m old + (1 - m) batch, and the first batch starts
it (CPT has m = 0.9; the codes of InstantNet and Double-Win Quant pass 0.1 in its place, which hardly smooths).
``percentile`` takes the p-th and the (100 - p)-th percentile of each batch by nearest rank. ``mse`` takes the shrunken
extremes that round each batch with the least squared error. The last two average their batches, weighted by size. A
range belongs to one site and one width: for a site alone the extremes are the same at every width, but behind other
quantized sites they are not, and the best clipping depends on the width itself. ``shared`` keeps one range for all
widths, as CPT does.  While ``observing``, a forward pass updates the range and rounds by it; frozen, it only rounds,
and a range never observed is an error.  Ranges are observed without gradients
(:func:`qalof.model.calibration.calibrate`), so no pass runs a second time inside backward. Under ``torch.distributed``
the ranks agree on each batch's range before it counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, Self

import torch
from torch import nn

from qalof.errors import BadInputError
from qalof.laws import Law
from qalof.precision import all_finite
from qalof.quantization.quantizer import QParams, Quantizer
from qalof.quantization.strict import check_fields, check_keys

SHRINKS = 41
"""``mse`` tries this many candidates, from the full range down to a fifth of it."""


@dataclass(frozen=True, kw_only=True)
class ObserverSpec:
    """How a static range is found."""

    kind: Literal["minmax", "ema", "percentile", "mse"] = "minmax"
    """How a range comes from the batches that pass: extremes, moving extremes, percentiles, or the least squared
    error."""
    momentum: Annotated[float, Law(ge=0, lt=1)] = 0.9
    """The share of the old range in ``ema``, whose first range is that of the first batch."""
    percentile: Annotated[float, Law(gt=50, le=100)] = 99.9
    """The upper percentile that ``percentile`` takes, in percent; the lower one mirrors it."""
    shared: bool = False
    """Whether all bit-widths share one range, as in CPT."""

    def __post_init__(self) -> None:
        check_fields(self, "observer")
        if self.kind == "mse" and self.shared:
            raise BadInputError("an mse range fits one width: it cannot be shared by all; take minmax or ema")

    def to_json(self) -> dict[str, Any]:
        """Return all settings."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read the form of :meth:`to_json`, or a kind alone."""
        data = {"kind": data} if isinstance(data, str) else data
        return cls(**check_keys(data, list(cls.__dataclass_fields__), "observer"))


class StaticRanges(nn.Module):
    """The ranges at one place of the model, by width; they are buffers, so they are part of the model's state.

    Args:
        spec: how to observe.
        place: the name of the site, for errors.
    """

    def __init__(self, spec: ObserverSpec, place: str) -> None:
        super().__init__()
        self.spec, self.place, self.observing = spec, place, False

    def qparams(self, x: torch.Tensor, bits: float, quantizer: Quantizer, seen: torch.Tensor | None = None) -> QParams:
        """Return the grid for ``x`` (..., tokens, features), which is observed first while :attr:`observing` is set.

        ``seen`` is observed in place of ``x``, for example its real tokens alone.

        Raises:
            BadInputError: The width was never observed, or ``x`` is observed and not finite or with gradients.
        """
        if self.observing:
            if torch.is_grad_enabled():
                # activation checkpointing runs a pass with a graph again inside backward, which would count it twice
                raise BadInputError(
                    f"ranges must be observed without gradients: {self.place} saw a pass with a graph; "
                    "call calibrate(model, batches)"
                )
            self.observe(x if seen is None else seen, bits, quantizer)
        key = self._key(bits)
        if not hasattr(self, f"low_{key}"):
            raise BadInputError(
                f"a static range must be observed before it is used: {self.place} has none at {bits} bits; "
                "run calibrate(model, batches) with a bitmap that has this width"
            )
        return quantizer.grid_of_range(getattr(self, f"low_{key}"), getattr(self, f"high_{key}"), bits)

    @torch.no_grad()
    def observe(self, x: torch.Tensor, bits: float, quantizer: Quantizer) -> None:
        """Include one batch in the range of this width.

        Raises:
            BadInputError: The batch is empty or not finite.
        """
        if not x.numel():
            raise BadInputError(f"calibration needs at least one number: {self.place} got an empty batch")
        if not all_finite(x):
            raise BadInputError(f"calibration data must be finite: {self.place} got NaN or infinity")
        low, high = _across_ranks(*batch_range(x, bits, quantizer, self.spec), self.spec)
        key, size = self._key(bits), torch.tensor(x.numel(), device=x.device)
        if hasattr(self, f"low_{key}"):
            seen = getattr(self, f"seen_{key}")
            low = self._merged(getattr(self, f"low_{key}"), low, seen, size, torch.minimum)
            high = self._merged(getattr(self, f"high_{key}"), high, seen, size, torch.maximum)
            size = seen + size
        for name, value in (("low", low), ("high", high), ("seen", size)):
            self.register_buffer(f"{name}_{key}", value)

    def reset(self) -> None:
        """Forget everything."""
        for name in list(self._buffers):
            delattr(self, name)

    def _merged(self, old: torch.Tensor, new: torch.Tensor, seen: torch.Tensor, size: torch.Tensor, most: Any) -> Any:
        if self.spec.kind == "minmax":
            return most(old, new)
        share = 1 - self.spec.momentum if self.spec.kind == "ema" else int(size) / int(seen + size)
        return old + (new - old) * share

    def _key(self, bits: float) -> str:
        return "all" if self.spec.shared else f"{bits:g}".replace(".", "_")

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # buffers are registered when they are first observed, so a stored range registers its own
        self.reset()
        for key in [key for key in state_dict if key.startswith(prefix)]:
            self.register_buffer(key.removeprefix(prefix), torch.empty_like(state_dict[key]))
        super()._load_from_state_dict(state_dict, prefix, *args)


def batch_range(
    x: torch.Tensor, bits: float, quantizer: Quantizer, spec: ObserverSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return low and high of one batch: each () for granularity tensor, (groups,) for group and head; fp32 or fp64."""
    lows, highs = [], []
    for piece in quantizer.static_groups(x):
        low, high = piece.amin(dim=-1), piece.amax(dim=-1)
        if spec.kind == "percentile":
            rank = max(1, -int(-piece.shape[-1] * spec.percentile // 100))
            high = piece.kthvalue(rank, dim=-1).values
            low = piece.kthvalue(piece.shape[-1] - rank + 1, dim=-1).values
        elif spec.kind == "mse":
            low, high = _least_error(piece, low, high, bits, quantizer)
        lows.append(low)
        highs.append(high)
    shape = (-1,) if quantizer.granularity.grouped else ()
    return torch.cat(lows).reshape(shape), torch.cat(highs).reshape(shape)


def _least_error(
    piece: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: float, quantizer: Quantizer
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, by group, the shrunken range that rounds (groups, elements) with the least squared error."""
    best_low, best_high, least = low, high, torch.full_like(low, torch.inf)
    for share in (1 - 0.8 * index / (SHRINKS - 1) for index in range(SHRINKS)):
        error = quantizer.error_in_range(piece, low * share, high * share, bits)
        better = error < least
        best_low, best_high = torch.where(better, low * share, best_low), torch.where(better, high * share, best_high)
        least = torch.minimum(least, error)
    return best_low, best_high


def _across_ranks(low: torch.Tensor, high: torch.Tensor, spec: ObserverSpec) -> tuple[torch.Tensor, torch.Tensor]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return low, high
    low, high = low.contiguous(), high.contiguous()
    if spec.kind in ("minmax", "ema"):
        torch.distributed.all_reduce(low, torch.distributed.ReduceOp.MIN)
        torch.distributed.all_reduce(high, torch.distributed.ReduceOp.MAX)
        return low, high
    both = torch.stack([low, high])
    torch.distributed.all_reduce(both)
    both /= torch.distributed.get_world_size()
    return both[0], both[1]
