"""Random numbers that are a pure function of (seed, purpose, step).

Each purpose has its own generator, so a draw that is added for one purpose never shifts those of another.
"""

from __future__ import annotations

import numpy as np

BITMAPS = 1
"""The purpose of drawing the bitmaps of a step."""

FEATURE_LAYER = 2
"""The purpose of drawing the block whose hidden state a step distills."""


def generator(seed: int, purpose: int, step: int) -> np.random.Generator:
    """Return a fresh generator; ``seed`` and ``step`` must not be negative."""
    return np.random.default_rng((seed, purpose, step))
