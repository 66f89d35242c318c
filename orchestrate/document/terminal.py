"""How the terminal shows numbers, sizes and bitmaps, within 80 columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from qalof.bitmap_names import short_name
from qalof.metrics import described
from qalof.statistics import Interval

MIB = 2**20


def level(value: float, sign: str = "") -> str:
    """The decimals of a metric: three for losses, one for percents, none for counts."""
    decimals = 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3
    return f"{value:{sign},.{decimals}f}"


def interval(metric: str, interval: Interval) -> str:
    """Write ``83.2 [80.1, 86.0]`` in the metric's decimals, or a bare value where there is no interval."""
    value, low, high = interval.estimate, interval.low, interval.high
    if not all(map(math.isfinite, (value, low, high))):
        return "not finite"
    if metric.endswith("_bytes"):
        return mib(value)
    decimals = described(metric).decimals
    if low == high:
        return f"{value:,.{decimals}f}"
    return f"{value:,.{decimals}f} [{low:,.{decimals}f}, {high:,.{decimals}f}]"


def heading(metric: str) -> str:
    """Make a heading of label and unit; bytes are shown in MiB, which stands with each number."""
    known = described(metric)
    return f"{known.label} ({known.unit})" if known.unit and not metric.endswith("_bytes") else known.label


def mib(count: float) -> str:
    """Write bytes in MiB, with at least three digits."""
    size = count / MIB
    return f"{size:,.{0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3}f} MiB"


def summaries(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Summaries by short name, of the bitmaps that have an id in place of their text."""
    named = {short_name(row["bitmap"]): row.get("summary", "") for row in rows}
    return {name: note for name, note in named.items() if name.startswith("#") and note}


def rate(rate: Mapping[str, Any]) -> str:
    """Write a share in percent: ``83 % [80, 86]``."""
    if rate["estimate"] is None:
        return "–"
    return f"{100 * rate['estimate']:.0f} % [{100 * rate['low']:.0f}, {100 * rate['high']:.0f}]"
