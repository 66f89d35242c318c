"""Random numbers that are a pure function of (seed, purpose, step).

A generator for each purpose, so that a draw added for one purpose never shifts another's.
"""

from __future__ import annotations

import numpy as np

BITMAPS = 1
"""Which bitmaps a step runs."""

FEATURE_LAYER = 2
"""Which block's hidden state a step distils."""


def generator(seed: int, purpose: int, step: int) -> np.random.Generator:
    """A fresh generator; ``seed`` and ``step`` must not be negative."""
    return np.random.default_rng((seed, purpose, step))
