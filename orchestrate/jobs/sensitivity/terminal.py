"""Sensitivities in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrate.document.formats import bits, three_digits
from orchestrate.document.sheet import Sheet
from orchestrate.document.terminal import interval, size
from orchestrate.runs.layout import RESULT
from qalof.metrics import DROP, described
from qalof.statistics import Interval


def ranking_table(result: Mapping[str, Any], folder: Path) -> Sheet:
    """Show units from the least to the most sensitive, with what is lost when each alone is reduced."""
    ranking, name = result["ranking"], f"{result['metric']}{DROP}"
    headings = ["unit", "to", f"{described(result['metric']).label} worse by", "average bits", "weights"]
    shown = []
    for row in ranking:
        drop = interval(result["metric"], Interval.from_columns(row, name))
        shown.append([row["unit"], str(row["bits"]), drop, bits(row["average_bits"]), size(row["weight_bytes"])])
    return Sheet(headings, shown, title="Least sensitive first", whole=str(folder / RESULT))


def errors_table(result: Mapping[str, Any]) -> Sheet:
    """Show output errors of sites, from the least mean squared error on."""
    rows = [
        [row["unit"], row["bits"], *(three_digits(row[name]) for name in ("mse", "mae", "rel"))]
        for row in result["ranking"]
    ]
    headings = ["site", "to", "MSE", "MAE", "relative MSE"]
    return Sheet(headings, rows, title="Least output error first", whole=result["file"])
