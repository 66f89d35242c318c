"""The tables of the four systems as the real model fills them: keeps what a run left, for docs/real_tables.md.

    QALOF_DATA=../shared/data qalof run --config configs/s3/bits.yaml --output runs/s3_bits scale=real
    python benchmarks/reference_tables.py runs/s3_bits > benchmarks/results/tables/s3_bits.json
    make results

A kept table is the run's ``table.json`` with what it depends on: the commit, the hardware, the seconds of each step,
and the command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from md_tables import rows

from orchestrate.document import formats
from orchestrate.runs.layout import ENVIRONMENT, PIPELINE, TABLE
from qalof.files import read_json

KEPT = Path(__file__).resolve().parent / "results" / "tables"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    options = parser.parse_args()
    print(json.dumps(kept(options.run), indent=2))


def kept(run: Path) -> dict[str, Any]:
    """What is kept of a pipeline's run at scale real."""
    table, pipeline = read_json(run / TABLE, "table"), read_json(run / PIPELINE, "pipeline")
    places = {step["name"]: read_json(run / step["name"] / ENVIRONMENT, "environment") for step in pipeline["steps"]}
    last = places[pipeline["steps"][-1]["name"]]
    system, name = run.name.split("_", 1)
    return {
        "command": f"qalof run --config configs/{system}/{name}.yaml scale={table['scale']}",
        "commits": sorted({place["git"]["commit"] for place in places.values()}),
        "hardware": f"{last['usable_cores']} cores of {last['processor']}",
        "torch": last["packages"]["torch"],
        "seconds": {step["name"]: step["seconds"] for step in pipeline["steps"]},
        **table,
    }


def reference_table(found: Mapping[str, Any]) -> str:
    """A kept table as markdown: ours with its interval, and the reference's number in italics after it."""
    header = ["", *(str(column["name"]) for column in found["columns"])]
    body = [[str(row["name"]), *map(_cell, row["cells"])] for row in found["rows"]]
    commits = ", ".join(f"`{commit[:7]}`" for commit in found["commits"])
    minutes = sum(found["seconds"].values()) / 60
    about = f"`{found['command']}`; {minutes:.0f} minutes on {found['hardware']}; commit {commits}."
    notes = "\n".join(f"- {note}" for note in found["notes"])
    return f"{rows(header, body)}\n\n{about}\n\n{notes}"


def reference_tables(system: str) -> str:
    """All kept tables of a system, each under its title."""
    parts = []
    for path in sorted(KEPT.glob(f"{system}_*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        parts.append(f"### {found['title']} ({found['source']})\n\n{reference_table(found)}")
    return "\n\n".join(parts) or "None has been run."


def _cell(cell: Mapping[str, Any]) -> str:
    theirs = "" if cell["reference"] is None else f" *{formats.as_given(cell['reference'])}*"
    return f"{formats.measured(cell)}{theirs}"


if __name__ == "__main__":
    main()
