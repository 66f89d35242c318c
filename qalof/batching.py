"""Padding and batching on which no score depends, and the progress of such batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch


def pad_right(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Return (rows, longest) int64, filled up with ``value`` on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=torch.int64)


def attention_mask(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return (rows, longest) int64: 1 where :func:`pad_right` kept a token."""
    return pad_right([[1] * len(row) for row in rows], 0)


def by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Yield indices in batches of similar length, so little is padded; ties keep their order."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


Progress = Callable[[int, int], None]
"""A function that is called with (done, total)."""

Length = TypeVar("Length", int, tuple[int, int])


def by_equal_length(lengths: Sequence[Length], batch_size: int) -> Iterator[list[int]]:
    """Yield indices in batches of one length (or pair of lengths) each, short ones first; ties keep their order."""
    groups: dict[Length, list[int]] = {}
    for index, length in enumerate(lengths):
        groups.setdefault(length, []).append(index)
    for _, group in sorted(groups.items()):
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]
