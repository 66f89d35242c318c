"""What ``range-test`` found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrate.document.findings import check_some
from qalof.statistics import from_nullable


@dataclass(frozen=True)
class WidthLoss:
    """The ``loss`` of the last steps at ``bits`` in nats, and its ``fall`` from the width below, as a share of that
    one's loss.
    """

    bits: int
    loss: float
    fall: float


@dataclass(frozen=True)
class RangeTested:
    """What ``range-test`` found by width, from low to high; the bounds are None where no width learns."""

    widths: tuple[WidthLoss, ...]
    lowest: int | None
    highest: int | None
    threshold: float


def range_tested(folder: Path, result: Mapping[str, Any]) -> RangeTested:
    """Read a range test's result."""
    widths = tuple(
        WidthLoss(int(row["bits"]), from_nullable(row["loss"]), from_nullable(row["improvement"]))
        for row in result["widths"]
    )
    check_some(widths, folder, "width")
    bounds = [None if result[name] is None else int(result[name]) for name in ("lowest", "highest")]
    return RangeTested(widths, bounds[0], bounds[1], float(result["threshold"]))
