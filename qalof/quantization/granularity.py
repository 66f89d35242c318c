"""Granularity: over which elements one scale is shared.

Weights are stored (out, in) and activations (..., tokens, features), so that every granularity but the whole
tensor groups along the last dimension.  CHANNEL and TOKEN reduce alike and keep their own names, because they
mean different things to a reader and to a packed file.

A quantizer's arithmetic knows one rule only: *the last dimension is the group*.  :func:`to_groups` brings a
tensor into that form and :func:`from_groups` takes it back.  A row that the group size does not divide ends in a
shorter group of its own.  Padding it would be harmless for a symmetric range, but would pull zero into an
asymmetric one and lower every mean (algorithms.md 1.10).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import torch

from qalof.errors import BadInputError


class Granularity(StrEnum):
    """Which elements share a scale.

    ``tensor``: all; ``channel``: a row of a weight; ``token``: the features of one token; ``group``: a run of
    ``group_size`` features of one row or token; ``head``: such a run that is one attention head of keys or values.
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
    """Largest absolute value of each group: (..., group) -> (..., 1).

    Two reductions without a temporary, which is cheaper than ``abs().amax()`` and gives the same number.
    """
    return torch.maximum(x.amax(dim=-1, keepdim=True), -x.amin(dim=-1, keepdim=True))


def mean_magnitude(x: torch.Tensor) -> torch.Tensor:
    """Mean absolute value of each group: (..., group) -> (..., 1).

    Of a contiguous copy where need be, since a strided sum is added up in another order.
    """
    return x.contiguous().abs().mean(dim=-1, keepdim=True)


def group_count(features: int, group_size: int) -> int:
    """Groups in a row; the last may be short."""
    return -(-features // group_size)


def to_groups(x: torch.Tensor, granularity: Granularity, group_size: int | None) -> list[torch.Tensor]:
    """Views of ``x`` whose last dimension is a group.

    Returns:
        tensor: one view (numel,); channel, token: ``x`` itself; group, head: the whole groups (..., n, group_size)
        and, where the row is not divided, the rest (..., 1, rest).
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
    """Groups over all tokens at once, for ranges and steps that outlive a batch.

    Returns:
        (groups, elements) of each piece of :func:`to_groups`; one group for tensor.

    Raises:
        BadInputError: channel and token, whose groups are gone with the batch.
    """
    if granularity in (Granularity.CHANNEL, Granularity.TOKEN):
        raise BadInputError(f"a range that outlives a batch needs granularity tensor, group or head: got {granularity}")
    pieces = to_groups(x, granularity, group_size)
    if granularity is Granularity.TENSOR:
        return [pieces[0].unsqueeze(0)]
    return [piece.flatten(0, -3).transpose(0, 1).flatten(1) for piece in pieces]


def from_groups(pieces: Sequence[torch.Tensor], granularity: Granularity, shape: torch.Size) -> torch.Tensor:
    """Undo :func:`to_groups`; ``shape`` is that of the whole."""
    if granularity is Granularity.TENSOR:
        return pieces[0].reshape(shape)
    if not granularity.grouped:
        return pieces[0]
    flat = [piece.flatten(-2) for piece in pieces]
    return flat[0] if len(flat) == 1 else torch.cat(flat, dim=-1)


def scale_to_groups(
    scale: torch.Tensor, granularity: Granularity, features: int, group_size: int | None
) -> list[torch.Tensor]:
    """Split a stored scale so that each part broadcasts against the piece of :func:`to_groups` it belongs to.

    Args:
        scale: () for tensor, (..., 1) for channel and token, (..., groups) for group and head.
        granularity: of the scale.
        features: length of the last dimension of the scaled tensor.
        group_size: for group and head.
    """
    if not granularity.grouped:
        return [scale]
    assert group_size is not None
    whole = features // group_size
    parts = [scale[..., :whole], scale[..., whole:]]
    return [part.unsqueeze(-1) for part in parts if part.shape[-1]]


def scale_from_groups(parts: Sequence[torch.Tensor], granularity: Granularity) -> torch.Tensor:
    """Undo :func:`scale_to_groups`; each part is (..., 1) of its piece."""
    if granularity is Granularity.TENSOR:
        return parts[0].reshape(())
    if not granularity.grouped:
        return parts[0]
    return torch.cat([part.squeeze(-1) for part in parts], dim=-1) if len(parts) > 1 else parts[0].squeeze(-1)


def check_divides(group_size: int, features: int, what: str = "in_features") -> None:
    """Refuse a group size that leaves a short last group, where a format has no room for one.

    Raises:
        BadInputError: names the nearest sizes that would do.
    """
    if features % group_size == 0:
        return
    divisors = [size for size in range(1, features + 1) if features % size == 0]
    near = sorted(sorted(divisors, key=lambda size: (abs(size - group_size), size))[:2])
    raise BadInputError(
        f"group_size must divide {what}: got {group_size} for {features}; {' or '.join(map(str, near))} would"
    )
