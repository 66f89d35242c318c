"""What was exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Exported:
    """What ``export`` wrote: its ``format``, the ``bitmap`` with the line that sums it up, and the bytes of all files.

    ``differing`` counts the sites whose weights in the file are not those that the model computes with, and
    ``difference`` is the largest difference of one; both are None for a format that has no such sites.
    """

    format: str
    bitmap: str
    summary: str
    bytes: int
    differing: int | None
    difference: float | None


def exported(folder: Path, result: Mapping[str, Any]) -> Exported:
    """Read the result of an export."""
    sites, difference = result.get("differing_sites"), result.get("largest_difference")
    return Exported(
        str(result["format"]),
        str(result["bitmap"]),
        str(result["summary"]),
        int(result["file_bytes"]),
        None if sites is None else len(sites),
        None if difference is None else float(difference),
    )
