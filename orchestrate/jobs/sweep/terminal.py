"""A sweep in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrate.document.formats import level
from orchestrate.document.sheet import Sheet


def sweep_table(result: Mapping[str, Any]) -> Sheet:
    """Show the trials of a sweep, the best first; a trial that did not finish has its last score."""
    trials = result["trials"]
    headings = ["trial", *trials[0]["params"], result["metric"], "state", "steps"]
    shown = []
    for row in trials:
        value = "not finite" if row["value"] is None else level(row["value"], result["metric"])
        params = [str(setting) for setting in row["params"].values()]
        shown.append([str(row["trial"]), *params, value, row["state"], str(row["step"])])
    return Sheet(headings, shown)
