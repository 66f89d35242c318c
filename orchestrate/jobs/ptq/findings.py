"""What methods without training reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrate.document.findings import check_some, intervals
from qalof.statistics import Interval


@dataclass(frozen=True)
class MethodScore:
    """A method at a bitmap, with its paired ``differences`` from the reference method at the same bitmap."""

    method: str
    bitmap: str
    metrics: Mapping[str, Interval]
    differences: Mapping[str, Interval]
    average_bits: float
    stored_bytes: int
    examples: int


@dataclass(frozen=True)
class PtqScores:
    """What ``ptq`` found, in the order of the result's rows."""

    task: str
    reference: str
    scores: tuple[MethodScore, ...]


def ptq_scores(folder: Path, result: Mapping[str, Any]) -> PtqScores:
    """Read the scores of methods without training."""
    scores = tuple(
        MethodScore(
            str(row["method"]),
            str(row["bitmap"]),
            intervals(row["metrics"]),
            intervals(row["difference"]),
            float(row["cost"]["average_bits"]),
            int(row["cost"]["stored_weight_bytes"]),
            int(row["examples"]),
        )
        for row in result["rows"]
    )
    check_some(scores, folder, "method")
    return PtqScores(str(result["task"]), str(result["reference"]), scores)
