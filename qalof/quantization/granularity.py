"""Granularity says which elements share one scale.

Weights are stored (out, in) and activations (..., tokens, features), so every granularity but the whole tensor groups
along the last dimension.  CHANNEL and TOKEN reduce alike.  They keep their own names, because they mean different
things to a reader and to a packed file.

The arithmetic of a quantizer follows one rule only: *the last dimension is the group*.  :func:`to_groups` brings a
tensor into that form and :func:`from_groups` takes it back.  A row that the group size does not divide ends in a
shorter group of its own. The rejected choice, padding, would be harmless for a symmetric range, but would pull an
asymmetric one towards zero and lower every mean (docs/methods/quantizers.md, "Granularity").
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import torch

from qalof.errors import BadInputError


class Granularity(StrEnum):
    """Which elements share a scale.

    ``tensor``: all elements do; ``channel``: a row of a weight does; ``token``: the features of one token do;
    ``group``: a run of ``group_size`` features of one row or token does; ``head``: such a run, which is one attention
    head of keys or values, does.
    """

    TENSOR = "tensor"
    CHANNEL = "channel"
    TOKEN = "token"
    GROUP = "group"
    HEAD = "head"

    @property
    def grouped(self) -> bool:
        """Whether one row has several scales."""
        return self is Granularity.GROUP or self is Granularity.HEAD

    @property
    def row_is_group(self) -> bool:
        """Whether the last dimension is the group as it is."""
        return self is Granularity.CHANNEL or self is Granularity.TOKEN


def absolute_maximum(x: torch.Tensor) -> torch.Tensor:
    """Return the largest absolute value of each group: (..., group) -> (..., 1).

    On a CPU two reductions are several times as fast as one of absolute values, which is not vectorized there. A GPU
    starts one kernel instead of four. The number is the same.
    """
    if x.device.type == "cuda":
        largest: torch.Tensor = torch.linalg.vector_norm(x, float("inf"), dim=-1, keepdim=True)
        return largest
    return torch.maximum(x.amax(dim=-1, keepdim=True), -x.amin(dim=-1, keepdim=True))


def mean_magnitude(x: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute value of each group: (..., group) -> (..., 1).

    A strided tensor is copied first, since its sum would be added up in another order.
    """
    return x.contiguous().abs().mean(dim=-1, keepdim=True)


def group_count(features: int, group_size: int) -> int:
    """Return the number of groups in a row; the last group may be short."""
    return -(-features // group_size)


def to_groups(x: torch.Tensor, granularity: Granularity, group_size: int | None) -> list[torch.Tensor]:
    """Return views of ``x`` whose last dimension is a group.

    Returns:
        For tensor, one view (numel,); for channel and token, ``x`` itself; for group and head, the whole groups (...,
        n, group_size) and, where the group size does not divide the row, the rest (..., 1, rest).
    """
    if granularity is Granularity.TENSOR:
        return [x.reshape(-1)]
    if not granularity.grouped:
        return [x]
    assert group_size is not None
    features = x.shape[-1]
    whole = features - features % group_size
    pieces = []
    if whole:
        pieces.append(x[..., :whole].unflatten(-1, (whole // group_size, group_size)))
    if whole < features:
        pieces.append(x[..., whole:].unsqueeze(-2))
    return pieces


def to_static_groups(x: torch.Tensor, granularity: Granularity, group_size: int | None) -> list[torch.Tensor]:
    """Return groups over all tokens at once, for ranges and step sizes that outlive a batch.

    Returns:
        Each piece of :func:`to_groups` as (groups, elements); tensor has one group.

    Raises:
        BadInputError: The granularity is channel or token, whose groups exist only in their batch.
    """
    if granularity in (Granularity.CHANNEL, Granularity.TOKEN):
        raise BadInputError(f"a range that outlives a batch needs granularity tensor, group or head: got {granularity}")
    pieces = to_groups(x, granularity, group_size)
    if granularity is Granularity.TENSOR:
        return [pieces[0].unsqueeze(0)]
    return [piece.flatten(0, -3).transpose(0, 1).flatten(1) for piece in pieces]


def from_groups(pieces: Sequence[torch.Tensor], granularity: Granularity, shape: torch.Size) -> torch.Tensor:
    """Undo :func:`to_groups`; ``shape`` is the shape of the whole tensor."""
    if granularity is Granularity.TENSOR:
        return pieces[0].reshape(shape)
    if not granularity.grouped:
        return pieces[0]
    flat = [piece.flatten(-2) for piece in pieces]
    return flat[0] if len(flat) == 1 else torch.cat(flat, dim=-1)


def scale_to_groups(
    scale: torch.Tensor, granularity: Granularity, features: int, group_size: int | None
) -> list[torch.Tensor]:
    """Split a stored scale into parts; each part broadcasts against the piece of :func:`to_groups` that it belongs to.

    Args:
        scale: () for tensor, (..., 1) for channel and token, (..., groups) for group and head.
        granularity: the granularity of the scale.
        features: length of the last dimension of the scaled tensor.
        group_size: the size of a group, needed for group and head.
    """
    if not granularity.grouped:
        return [scale]
    assert group_size is not None
    whole = features // group_size
    parts = [scale[..., :whole], scale[..., whole:]]
    return [part.unsqueeze(-1) for part in parts if part.shape[-1]]


def scale_from_groups(parts: Sequence[torch.Tensor], granularity: Granularity) -> torch.Tensor:
    """Undo :func:`scale_to_groups`; each part has the shape (..., 1) of its piece."""
    if granularity is Granularity.TENSOR:
        return parts[0].reshape(())
    if not granularity.grouped:
        return parts[0]
    return torch.cat([part.squeeze(-1) for part in parts], dim=-1) if len(parts) > 1 else parts[0].squeeze(-1)


def check_divides(group_size: int, features: int, what: str = "in_features") -> None:
    """Refuse a group size that leaves a short last group, where a format has no room for one.

    Raises:
        BadInputError: The size does not divide ``features``; the message names the nearest sizes that do.
    """
    if features % group_size == 0:
        return
    divisors = [size for size in range(1, features + 1) if features % size == 0]
    near = sorted(sorted(divisors, key=lambda size: (abs(size - group_size), size))[:2])
    raise BadInputError(
        f"group_size must divide {what}: got {group_size} for {features}; {' or '.join(map(str, near))} would"
    )
