"""How the terminal writes numbers, sizes and bitmaps within 80 columns: as reports do, with plain spaces.

A space that keeps a number with its unit on one line is of use in a page only; in a terminal it would hinder whoever
searches or copies the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrate.document import formats
from qalof.bitmap_names import short_name
from qalof.metrics import described
from qalof.statistics import Interval


def plain(text: str) -> str:
    """Return a text of :mod:`orchestrate.document.formats` with plain spaces."""
    return text.replace(formats.NBSP, " ")


def interval(metric: str, interval: Interval) -> str:
    """Write ``83.2 [80.1, 86.0]`` in the metric's decimals, or a bare value where there is no interval."""
    return plain(formats.level_with_interval(interval, metric))


def heading(metric: str) -> str:
    """Make a heading of label and unit; bytes have their unit with each number."""
    known = described(metric)
    return f"{known.label} ({known.unit})" if known.unit and not metric.endswith("_bytes") else known.label


def size(count: float) -> str:
    """Write bytes in MiB, and few of them in KiB or bytes."""
    return plain(formats.size(count))


def summaries(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the summaries, by short name, of the bitmaps that have an id in place of their text."""
    named = {short_name(row["bitmap"]): row.get("summary", "") for row in rows}
    return {name: note for name, note in named.items() if name.startswith("#") and note}


def rate(rate: Mapping[str, Any]) -> str:
    """Write a share in percent: ``83 % [80, 86]``."""
    return plain(formats.share_with_interval(rate["estimate"], rate["low"], rate["high"]))
