"""A front consists of the points that no other point dominates.

Pure functions of values and directions.  A point dominates another if it is at least as good in every objective and
better in one; equal points do not dominate each other and are both kept. A point with a value that is not finite is on
no front: a collapsed model is cheap and would otherwise appear on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from qalof.metrics import Direction

Values = Sequence[float]


def non_dominated(points: Sequence[Values], directions: Sequence[Direction]) -> list[int]:
    """Return the positions, in order, of the points that no other point dominates.

    Args:
        points: one value per objective.
        directions: ``max`` or ``min`` per objective.
    """
    losses = [_as_losses(point, directions) for point in points]
    finite = [index for index, loss in enumerate(losses) if all(map(math.isfinite, loss))]
    return [index for index in finite if not any(_dominates(losses[other], losses[index]) for other in finite)]


def _as_losses(values: Values, directions: Sequence[Direction]) -> list[float]:
    return [-value if direction == "max" else value for value, direction in zip(values, directions, strict=True)]


def _dominates(left: Values, right: Values) -> bool:
    return left != right and all(a <= b for a, b in zip(left, right, strict=True))
