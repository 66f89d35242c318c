"""How numbers and names are written: one way of rounding for the terminal, and for a report's sentences, tables and
plots.

Levels in percent have one decimal, since their intervals are wider than that; differences have two, so an interval that
excludes zero does not round to one that holds it.  Sizes are in MiB, so those of one column compare; small ones are in
KiB or bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from qalof.bitmap_names import short_name
from qalof.metrics import NATS, PERCENT, described, is_percent
from qalof.statistics import Interval

DASH = "–"
NBSP = "\u00a0"
"""A space that keeps a number with its unit, and the two ends of an interval, on one line."""
_BYTES = {"bytes": 1.0, "KiB": 2.0**10, "MiB": 2.0**20}


def name_of(metric: str) -> str:
    """Name a metric or cost in prose."""
    return described(metric).label


def worsening(metric: str) -> str:
    """Name a positive drop of a metric: ``loss of F1``, ``rise of perplexity``."""
    return f"{'rise' if described(metric).direction == 'min' else 'loss'} of {name_of(metric)}"


def heading(metric: str) -> str:
    """Name a metric or cost with its unit, at the head of a column or along an axis."""
    unit = described(metric).unit
    return f"{capital(name_of(metric))} ({unit})" if unit in (PERCENT, NATS) else capital(name_of(metric))


def capital(text: str) -> str:
    """Make the first letter of a text large, and leave the rest as it is."""
    return text[:1].upper() + text[1:]


def level(value: float, metric: str) -> str:
    """Write a metric's value, without its unit."""
    if not math.isfinite(value):
        return "not finite"
    return signed(value, described(metric).decimals)


def level_with_interval(interval: Interval, metric: str) -> str:
    """Write ``78.3 [72.1, 84.0]``, or a bare value where there is no interval; bytes are a size."""
    if metric.endswith("_bytes") and math.isfinite(interval.estimate):
        return size(interval.estimate)
    text = level(interval.estimate, metric)
    if interval.low == interval.high or not math.isfinite(interval.estimate):
        return text
    return f"{text} [{level(interval.low, metric)},{NBSP}{level(interval.high, metric)}]"


def in_prose(interval: Interval, metric: str) -> str:
    """Write what :func:`level_with_interval` writes, with the unit after the estimate."""
    unit = f"{NBSP}%" if is_percent(metric) and math.isfinite(interval.estimate) else ""
    estimate, bracket, rest = level_with_interval(interval, metric).partition(" [")
    return f"{estimate}{unit}{bracket}{rest}"


def difference(interval: Interval) -> str:
    """Write ``−0.41 [−1.20, 0.38]``; where all examples are alike there is no interval."""
    if not math.isfinite(interval.estimate):
        return "not finite"
    if interval.low == interval.high:
        return f"{signed(interval.estimate, 2)} on every example"
    return f"{signed(interval.estimate, 2)} [{signed(interval.low, 2)},{NBSP}{signed(interval.high, 2)}]"


def size_of_difference(interval: Interval) -> str:
    """Write a difference whose sign is said in words: ``0.41 [0.38, 1.20]``."""
    if interval.estimate >= 0:
        return difference(interval)
    return difference(Interval(-interval.estimate, -interval.high, -interval.low))


def signed(value: float, decimals: int) -> str:
    """Write fixed decimals with a true minus and commas between thousands, and never ``−0.0``."""
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if not text.strip("-0.,") else text.replace("-", "−")


def by_magnitude(value: float, plus: bool = False) -> str:
    """Write a number of which only the value is known: counts whole, percents with one decimal, losses with three.

    ``plus``: whether a positive number has a sign too, as differences have.
    """
    text = signed(value, 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 3)
    return f"+{text}" if plus and value > 0 else text


def by_magnitude_with_interval(value: float, low: float, high: float) -> str:
    """Write ``78.3 [72.1, 84.0]`` as :func:`by_magnitude` does, or a bare value where there is no interval."""
    text = by_magnitude(value)
    return f"{text} [{by_magnitude(low)},{NBSP}{by_magnitude(high)}]" if low < high else text


def measured(cell: Mapping[str, Any]) -> str:
    """Write the number of a cell of a reference's table, with its interval, or the reason why there is none."""
    if cell["value"] is None:
        return str(cell["reason"])
    return by_magnitude_with_interval(cell["value"], cell["low"], cell["high"])


def as_given(value: float) -> str:
    """Write another's number with all digits that it has, and commas between thousands."""
    return f"{value:,.10g}".replace("-", "−")


def bits(value: float) -> str:
    """Write a mean number of bits."""
    return f"{value:.2f}"


def three_digits(value: float) -> str:
    """Write a number of any size, such as a squared error, with three digits."""
    return f"{value:.3g}"


def two_digits(value: float) -> str:
    """Write a number of any size in two digits, such as a p-value, or a cell of a map, whose color tells it from its
    neighbors.
    """
    return f"{value:.2g}"


def count(value: float) -> str:
    """Write a whole number."""
    return f"{value:,.0f}"


def mean_count(value: float) -> str:
    """Write the mean of a count, such as tokens per text."""
    return f"{value:,.1f}"


def percent(value: float, decimals: int = 1) -> str:
    """Write a number of percent with its unit."""
    return f"{signed(value, decimals)}{NBSP}%" if math.isfinite(value) else "not finite"


def setting(value: Any) -> str:
    """Write a setting's value, with four digits for floats."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def share(value: float | None) -> str:
    """Write a rate in [0, 1] in percent."""
    return DASH if value is None else f"{100 * value:.0f}{NBSP}%"


def share_with_interval(estimate: float | None, low: float, high: float) -> str:
    """Write a share with its interval: ``83 % [64, 93]``."""
    return DASH if estimate is None else f"{share(estimate)} [{100 * low:.0f},{NBSP}{100 * high:.0f}]"


def size(count: float) -> str:
    """Write bytes in MiB with at least three digits; below a tenth of one in KiB, and below one of these in bytes."""
    unit = "bytes" if abs(count) < 1024 else "KiB" if abs(count) < 0.1 * _BYTES["MiB"] else "MiB"
    value = count / _BYTES[unit]
    decimals = 0 if unit == "bytes" or abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{decimals}f}{NBSP}{unit}"


def cost(value: float, name: str) -> str:
    """Write a cost of :mod:`qalof.cost` in its own unit."""
    if name.endswith("bytes") or "bytes_" in name:
        return size(value)
    if decimals := described(name).decimals:
        return f"{value:.{decimals}f}"
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value:.0f}"


def axis(name: str, most: float) -> tuple[float, str]:
    """Find the divisor of a cost for which an axis up to ``most`` has round ticks, and the axis's label."""
    if "bytes" not in name:
        factor = 10.0 ** (3 * int(math.log10(most) // 3)) if most >= 1e4 else 1.0
        return factor, heading(name) if factor == 1 else f"{heading(name)} ({factor:.0e})"
    unit = size(most).partition(NBSP)[2]
    return _BYTES[unit], f"{heading(name)} ({unit})"


def duration(seconds: float | None) -> str:
    """Write a wall time."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(timestamp: float) -> str:
    """Write seconds since 1970 as date and time in UTC."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M UTC")


def bitmap_name(text: str) -> str:
    """Name a bitmap in prose: uniform ones in words, such as ``4 bits in groups of 32``, and long ones by their id
    (:mod:`qalof.bitmap_names`).
    """
    if text.isdigit():
        return "full precision" if text == "32" else f"{text} bits"
    bits, _, size = text.partition("g")
    return f"{bits} bits in groups of {size}" if bits.isdigit() and size.isdigit() else short_name(text)


def bitmap_heading(text: str) -> str:
    """Name a bitmap at the head of a row or column."""
    return "32 bits (full precision)" if text == "32" else bitmap_name(text)


def bitmap_names(texts: Sequence[str]) -> str:
    """Name several bitmaps in prose: ``full precision, 8, 7 and 6 bits``; widths that follow each other share the
    unit.
    """
    names = [bitmap_name(text) for text in texts]
    plain = [text.isdigit() and text != "32" for text in texts]
    followed = [here and after for here, after in zip(plain, [*plain[1:], False], strict=True)]
    return listed([name.removesuffix(" bits") if cut else name for name, cut in zip(names, followed, strict=True)])


def by_bitmap(texts: Sequence[str], values: Sequence[str], word: str = "at") -> str:
    """Write values with their bitmaps, equal ones together: ``99 % at 8 and 6 bits; 95 % at 4 bits``."""
    groups: dict[str, list[str]] = {}
    for text, value in zip(texts, values, strict=True):
        groups.setdefault(value, []).append(text)
    parts = [f"{value} {word} {bitmap_names(names)}" for value, names in groups.items()]
    return listed(parts) if len(parts) == len(texts) else "; ".join(parts)


def shorter(text: str, most: int) -> str:
    """Leave out the middle of ``text`` where it is longer than ``most``."""
    if len(text) <= most:
        return text
    kept = (most - 1) // 2
    return f"{text[:kept]}…{text[-kept:]}"


def listed(items: list[str]) -> str:
    """List items: ``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def count_of(number: int, noun: str) -> str:
    """Write a count with its noun: ``1 site``, ``4 sites``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts the numbers within dotted names as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
