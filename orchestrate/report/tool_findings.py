"""What the commands around training and search found: sweeps, range tests, baselines, footprints, generated data.

As :mod:`orchestrate.report.findings`: read from ``result.json`` into typed values, refused where the form is another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qalof.errors import BadInputError
from qalof.statistics import Interval, from_nullable
from search.objective import Objective


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep; ``value``: its last score, NaN where not finite, after ``step`` steps."""

    number: int
    params: Mapping[str, Any]
    state: str
    step: int
    value: float


@dataclass(frozen=True)
class Swept:
    """Of ``sweep``: ``trials`` with the best first; ``best`` is its number, None where no finished one has a score."""

    objective: Objective
    trials: tuple[Trial, ...]
    best: int | None


@dataclass(frozen=True)
class WidthLoss:
    """``loss``: in nats, of the last steps at ``bits``; ``fall``: from the width below, as a share of its loss."""

    bits: int
    loss: float
    fall: float


@dataclass(frozen=True)
class RangeTested:
    """Of ``range-test``: by width, from low to high; the bounds are None where no width learns."""

    widths: tuple[WidthLoss, ...]
    lowest: int | None
    highest: int | None
    threshold: float


@dataclass(frozen=True)
class MethodScore:
    """A method at a bitmap; ``differences``: paired, from the reference method at the same bitmap."""

    method: str
    bitmap: str
    metrics: Mapping[str, Interval]
    differences: Mapping[str, Interval]
    average_bits: float
    stored_bytes: int
    examples: int


@dataclass(frozen=True)
class Baselines:
    """Of ``baselines``: in the order of the result's rows."""

    task: str
    reference: str
    scores: tuple[MethodScore, ...]


@dataclass(frozen=True)
class Measured:
    """Of ``footprint``: by bitmap, what was measured, by the names of :data:`orchestrate.footprint_job.METRICS`."""

    device: str
    rows: tuple[tuple[str, Mapping[str, float]], ...]


@dataclass(frozen=True)
class Generated:
    """Of ``generate-data``: ``kind``: texts or completions; ``ended``: at the model's own end; ``empty``: no token."""

    kind: str
    start: str
    texts: int
    tokens: int
    ended: int
    empty: int


ToolFindings = Swept | RangeTested | Baselines | Measured | Generated


def intervals(metrics: Mapping[str, Any]) -> dict[str, Interval]:
    """By name, from [estimate, low, high]."""
    return {name: Interval.from_json(values) for name, values in metrics.items()}


def swept(folder: Path, result: Mapping[str, Any]) -> Swept:
    """Read a sweep's result."""
    trials = tuple(
        Trial(int(row["trial"]), dict(row["params"]), str(row["state"]), int(row["step"]), from_nullable(row["value"]))
        for row in result["trials"]
    )
    best = result["best"]
    _some(trials, folder, "trial")
    return Swept(Objective.parse(result["metric"]), trials, None if best is None else int(best["trial"]))


def range_tested(folder: Path, result: Mapping[str, Any]) -> RangeTested:
    """Read a range test's result."""
    widths = tuple(
        WidthLoss(int(row["bits"]), from_nullable(row["loss"]), from_nullable(row["improvement"]))
        for row in result["widths"]
    )
    _some(widths, folder, "width")
    bounds = [None if result[name] is None else int(result[name]) for name in ("lowest", "highest")]
    return RangeTested(widths, bounds[0], bounds[1], float(result["threshold"]))


def baselines(folder: Path, result: Mapping[str, Any]) -> Baselines:
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
    _some(scores, folder, "method")
    return Baselines(str(result["task"]), str(result["reference"]), scores)


def measured(folder: Path, result: Mapping[str, Any]) -> Measured:
    """Read a footprint."""
    rows = tuple(
        (str(row["bitmap"]), {k: from_nullable(v[0]) for k, v in row["metrics"].items()}) for row in result["rows"]
    )
    _some(rows, folder, "bitmap")
    return Measured(str(result["device"]), rows)


def generated(folder: Path, result: Mapping[str, Any]) -> Generated:
    """Read what was counted of generated data."""
    counts = [int(result[name]) for name in ("texts", "tokens", "ended", "empty")]
    return Generated(str(result["kind"]), str(result["start"]), *counts)


def _some(rows: tuple[Any, ...], folder: Path, what: str) -> None:
    if not rows:
        raise BadInputError(f"result file {folder / 'result.json'} must have at least one {what}: it has none")
