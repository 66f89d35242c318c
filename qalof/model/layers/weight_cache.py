"""Results that are computed from weights, cached until one of the weights changes.

A change is another tensor in a weight's place, or a write that raises the version that torch counts for every tensor:
an optimizer's step, ``copy_``, a loaded state. A write through ``weight.data`` and the step of a fused optimizer raise
none, so whoever makes one clears the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)
Kept = TypeVar("Kept")


class WeightCache(Generic[Key, Kept]):
    """What was computed from one set of tensors, by key."""

    def __init__(self) -> None:
        self._kept: dict[Key, Kept] = {}
        self._seen: tuple[tuple[torch.Tensor, int], ...] = ()

    def of(self, sources: Sequence[torch.Tensor]) -> dict[Key, Kept]:
        """Return what is cached, which is nothing if one of ``sources`` has changed since it was computed."""
        now = tuple((source, source._version) for source in sources)
        same = len(now) == len(self._seen) and all(
            source is before and version == then
            for (source, version), (before, then) in zip(now, self._seen, strict=True)
        )
        if not same:
            self._kept.clear()
            self._seen = now
        return self._kept

    def get(self, key: Key, sources: Sequence[torch.Tensor], compute: Callable[[], Kept]) -> Kept:
        """Return the result of ``compute`` for ``key``, computed without gradients and only if it is not cached."""
        kept = self.of(sources)
        if key not in kept:
            # a tensor made in inference mode could never serve a later training step
            with torch.inference_mode(False), torch.no_grad():
                kept[key] = compute()
        return kept[key]

    def clear(self) -> None:
        """Drop everything."""
        self._kept.clear()
