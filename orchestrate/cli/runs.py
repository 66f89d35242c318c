"""What lies in a folder of runs, and what one run found, without its report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrate.cli.options import JsonOption, app, at_home
from orchestrate.document.record import Record, State, read_record
from orchestrate.runs.layout import PIPELINE, RUN
from qalof.errors import BadInputError, QalofError

DAMAGED = "damaged"
DEEPEST = 3
"""How many levels of folders runs are looked for in."""


@app.command()
def ls(
    folder: Annotated[Path, typer.Argument(callback=at_home, help="A folder of runs.")] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """List the runs in a folder: their command, how far they came, when they began and how long they took."""
    if not folder.is_dir():
        raise BadInputError(f"ls must be given a folder of runs: {folder} does not exist; run something first")
    rows = [row_of(path, folder) for path in run_folders(folder)]
    if as_json:
        print(json.dumps(rows))
        return
    if not rows:
        print(f"{folder} holds no run")
        return
    from rich.console import Console

    from orchestrate.document.formats import duration, moment
    from orchestrate.document.sheet import Sheet

    cells = [
        [
            row["run"], row["command"], row["state"],
            "" if row["started"] is None else moment(row["started"]),
            "" if row["seconds"] is None else duration(row["seconds"]),
        ]
        for row in rows
    ]  # fmt: skip
    console = Console(highlight=False, markup=False)
    console.print(Sheet(["run", "command", "state", "begun", "took"], cells, title=str(folder)))
    for row in rows:
        if row["reason"]:
            console.print(f"{row['run']}: {row['reason']}", soft_wrap=True)


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(callback=at_home, help="The folder of a run or a pipeline.")],
    as_json: JsonOption = False,
) -> None:
    """Say what a run found, in the sentences of its report, and which files it left."""
    from orchestrate.jobs.registry import JOBS
    from orchestrate.report.summary import statements

    record = read_record(folder, JOBS)
    steps: list[dict[str, Any]] = [
        {
            "name": step.name, "command": step.command, "state": str(step.state), "seconds": step.seconds,
            "statements": [statement.text for statement in statements(record, step)],
            "files": sorted(path.name for path in step.folder.iterdir() if not path.name.startswith("."))
            if step.folder.is_dir()
            else [],
        }
        for step in record.steps
    ]  # fmt: skip
    if as_json:
        print(json.dumps({"folder": str(record.folder), "title": record.title, "whole": record.whole, "steps": steps}))
        return
    from rich.console import Console

    from orchestrate.document.formats import duration
    from orchestrate.document.terminal import plain

    console = Console(highlight=False, markup=False)
    console.print(f"{record.title}: {record.folder}")
    for step in steps:
        took = "" if step["seconds"] is None else f", {duration(step['seconds'])}"
        console.print(f"\n{step['name']} ({step['command']}, {step['state']}{took})")
        for sentence in step["statements"]:
            console.print(f"  {plain(sentence)}")
        if step["files"]:
            console.print(f"  Files: {', '.join(step['files'])}")


@app.command()
def sync(
    folder: Annotated[Path, typer.Argument(callback=at_home, help="The folder of a run, or of many.")] = Path("runs"),
    uri: Annotated[str | None, typer.Option("--uri", help="The store; otherwise the one that each run names.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell MLflow what it missed while its server was away, once and in order."""
    from orchestrate.runs.mlflow_sync import sync as synced

    rows = synced(folder, uri)
    left = sum(row.left for row in rows)
    if as_json:
        print(json.dumps({"runs": [{**row._asdict(), "folder": str(row.folder)} for row in rows], "left": left}))
    else:
        for row in rows:
            print(f"{row.folder}: {row.written} written, {row.left} left")
        if not rows:
            print(f"nothing waits in {folder}")
    if left:
        raise QalofError(f"{left} writes are left in {folder}: their store is away; run sync again when it answers")


def run_folders(folder: Path, depth: int = DEEPEST) -> Iterator[Path]:
    """Yield the folders of runs and pipelines, in the order of their names; a pipeline's steps are not listed apart."""
    if (folder / RUN).is_file() or (folder / PIPELINE).is_file():
        yield folder
        return
    if depth > 0:
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.is_symlink() and not child.name.startswith("."):
                yield from run_folders(child, depth - 1)


def row_of(path: Path, folder: Path) -> dict[str, Any]:
    """Return what ``ls`` says of one run; a damaged one has its reason."""
    name = str(path.relative_to(folder)) if path != folder else path.absolute().name
    try:
        record = read_record(path, {})
    except BadInputError as error:
        return {
            "run": name, "command": "", "state": DAMAGED, "started": None, "seconds": None, "reason": str(error),
        }  # fmt: skip
    began = [step.started for step in record.steps if step.started is not None]
    return {
        "run": name,
        "command": record.steps[0].command if record.single else f"pipeline of {len(record.steps)}",
        "state": _state(record),
        "started": min(began) if began else None,
        "seconds": record.step_seconds if record.seconds is None and record.whole else record.seconds,
        "reason": "",
    }


def _state(record: Record) -> str:
    if record.whole:
        return str(State.FINISHED)
    if record.single:
        return str(State.UNFINISHED)
    done = sum(step.state is State.FINISHED for step in record.steps)
    return f"{done} of {len(record.steps)} finished"
