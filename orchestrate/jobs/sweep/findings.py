"""What ``sweep`` found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrate.document.findings import check_some
from qalof.statistics import from_nullable
from search.objective import Objective


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep; ``value`` is its last score, after ``step`` steps, and NaN where it is not finite."""

    number: int
    params: Mapping[str, Any]
    state: str
    step: int
    value: float


@dataclass(frozen=True)
class Swept:
    """What ``sweep`` found: ``trials`` with the best first; ``best`` is its number, or None where no finished one has a
    score.
    """

    objective: Objective
    trials: tuple[Trial, ...]
    best: int | None


def swept(folder: Path, result: Mapping[str, Any]) -> Swept:
    """Read a sweep's result."""
    trials = tuple(
        Trial(int(row["trial"]), dict(row["params"]), str(row["state"]), int(row["step"]), from_nullable(row["value"]))
        for row in result["trials"]
    )
    best = result["best"]
    check_some(trials, folder, "trial")
    return Swept(Objective.parse(result["metric"]), trials, None if best is None else int(best["trial"]))
