"""What was generated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Generated:
    """What ``generate-data`` wrote: its ``kind`` (texts or completions), how many ``ended`` where the model ended them,
    and how many are ``empty``.
    """

    kind: str
    start: str
    texts: int
    tokens: int
    ended: int
    empty: int


def generated(folder: Path, result: Mapping[str, Any]) -> Generated:
    """Read what was counted of generated data."""
    counts = [int(result[name]) for name in ("texts", "tokens", "ended", "empty")]
    return Generated(str(result["kind"]), str(result["start"]), *counts)
