"""What a checkpoint takes at each bitmap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrate.document.findings import check_some
from qalof.statistics import from_nullable


@dataclass(frozen=True)
class Measured:
    """What ``profile`` measured by bitmap, under the names of :data:`orchestrate.jobs.profile.job.METRICS`."""

    device: str
    rows: tuple[tuple[str, Mapping[str, float]], ...]


def measured(folder: Path, result: Mapping[str, Any]) -> Measured:
    """Read a profile."""
    rows = tuple(
        (str(row["bitmap"]), {k: from_nullable(v[0]) for k, v in row["metrics"].items()}) for row in result["rows"]
    )
    check_some(rows, folder, "bitmap")
    return Measured(str(result["device"]), rows)
