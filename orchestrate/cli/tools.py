"""The other commands: pipelines and their reports, export, validation, MLflow's pages."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from orchestrate.cli.options import (
    CheckpointOption,
    Common,
    JsonOption,
    Overrides,
    app,
    at_home,
    checkpoint_given,
    print_wrapped,
    run_job,
    show_forecast,
    with_common,
)
from orchestrate.config.shipped import CONFIGS
from qalof.errors import BadInputError

MLFLOW_PAGE = "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"
"""The address has this parameter since MLflow 3 otherwise opens on traces of conversations, of which there are none."""
DEMO = CONFIGS / "demo.yaml"


def export(
    common: Common,
    checkpoint: CheckpointOption = None,
    bitmap: Annotated[str | None, typer.Option("--bitmap", help="8, w4a8, 8,8,4,4, striped84, FILE#ID.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            callback=at_home,
            help="A folder, or NAME.gguf; it must be new, or an older export. With --config it is the run directory.",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format", help="packed (the default), gguf, gguf-lora, compressed-tensors; the second and last merge."
        ),
    ] = None,
    embedding_bits: Annotated[
        str | None,
        typer.Option("--embedding-bits", help="The width of an embedding that has none: 8 by default; none keeps it."),
    ] = None,
    float_type: Annotated[
        str | None, typer.Option("--float-type", help="The type of what has no width: float32, float16, bfloat16.")
    ] = None,
) -> None:
    """Write a checkpoint at one bitmap as packed integers, GGUF or compressed-tensors; `--config` makes it a job."""
    options = {"bitmap": bitmap, "format": form, "float_type": float_type, "embedding_bits": _width(embedding_bits)}
    given = checkpoint_given(checkpoint) | {key: value for key, value in options.items() if value is not None}
    if common.config is not None:
        run_job("export", replace(common, output=output), given)
        return
    if common.overrides:
        raise BadInputError(f"key=value is for an export with a --config: got {common.overrides[0]!r}; give options")
    if checkpoint is None or bitmap is None or output is None:
        wanted = {"--checkpoint": checkpoint, "--bitmap": bitmap, "--output": output}
        missing = ", ".join(name for name, value in wanted.items() if value is None)
        raise BadInputError(f"an export needs --checkpoint, --bitmap and --output, or a --config: got no {missing}")
    from orchestrate.jobs.export.terminal import describe
    from orchestrate.jobs.export.write import check_request, export_checkpoint

    if common.dry_run:
        check_request(checkpoint, output, form or "packed", float_type or "float32")
        would = f"export: {form or 'packed'} at {bitmap} of {checkpoint}, to {output}"
        print(json.dumps({"dry_run": True, "would": would})) if common.as_json else print_wrapped(would)
        return
    result = export_checkpoint(checkpoint, bitmap, output, form or "packed", embedding_bits, float_type or "float32")
    if common.as_json:
        print(json.dumps(result))
    else:
        print_wrapped(describe(result))


app.command()(with_common(export, without=["output", "address"]))


def _width(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


@app.command()
def register(
    checkpoint: Annotated[Path, typer.Option("--checkpoint", callback=at_home, help="A checkpoint's folder.")],
    name: Annotated[str, typer.Option("--name", help="The name of the registered model, made where it is missing.")],
    bitmap: Annotated[
        list[str], typer.Option("--bitmap", help="8, w4a8, front.json#3; give it once for each version.")
    ],
    alias: Annotated[
        list[str] | None, typer.Option("--alias", help="One per bitmap, in their order; otherwise bitmap-NAME.")
    ] = None,
    root: Annotated[Path, typer.Option("--root", callback=at_home, help="Folder of the runs.")] = Path("runs"),
    uri: Annotated[str | None, typer.Option("--uri", help="A tracking server, in place of --root.")] = None,
    experiment: Annotated[str, typer.Option("--experiment", help="MLflow's experiment.")] = "qalof",
    as_json: JsonOption = False,
) -> None:
    """Register a checkpoint in MLflow at chosen bitmaps, such as points of a front; `mlflow models serve` serves it."""
    from orchestrate.mlflow_model.register import register as registered

    result = registered(checkpoint, name, bitmap, alias or (), root=root, uri=uri, experiment=experiment)
    if as_json:
        print(json.dumps(result))
        return
    for row in result["versions"]:
        print_wrapped(f"{row['uri']} is version {row['version']}{'' if row['new'] else ', as it was already'}")


@app.command()
def bitmap(
    spec: Annotated[str, typer.Argument(help="FILE#ID, such as runs/search/front.json#3; or any form of a bitmap.")],
    checkpoint: CheckpointOption = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", callback=at_home, help="Draw it: NAME.png or NAME.svg.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a bitmap: its id, a line that sums it up, and a map of blocks by kinds of layer."""
    from rich.console import Console

    from orchestrate.cli.bitmap_view import find_bitmap, terminal_map, write_picture
    from orchestrate.document.terminal import size

    found, said = find_bitmap(spec, checkpoint)
    if picture is not None:
        write_picture(found, said["summary"], picture)
    if as_json:
        print(json.dumps({**said, "picture": None if picture is None else str(picture)}))
        return
    console = Console(highlight=False, markup=False)
    console.print(f"#{said['id']}: {said['summary']}")
    if "cost" in said:
        console.print(f"{said['sites']:,} sites, weights {size(said['cost']['weight_bytes'])}")
    for line in terminal_map(found, console.width):
        console.print(line, no_wrap=True)


def run(common: Common) -> None:
    """Run a pipeline or a reference's table, step by step, and write its report; `scale=tiny` takes minutes."""
    if common.config is None:
        raise BadInputError("run needs --config: a pipeline such as configs/demo.yaml")
    _pipeline(common.config, common)


def demo(common: Common) -> None:
    """Run the whole story on the shipped tiny model: train, evaluate, search, attack, report."""
    _pipeline(DEMO, common)


app.command()(with_common(run))
app.command()(with_common(demo, without=["config"]))


def _pipeline(config: Path, common: Common) -> None:
    from orchestrate.cli.terminal import show_table
    from orchestrate.document.formats import duration
    from orchestrate.pipeline.run import load_pipeline, run_pipeline
    from orchestrate.report import REPORT, write_report
    from orchestrate.runs.progress import say
    from qalof.writing import check_file

    loaded = load_pipeline(config, common.overrides)
    # a table's name says little without its folder: s1 and s2 both have a table named sensitivity
    folder = config.absolute().parent.name
    place = common.output or Path("runs") / (f"{folder}_{config.stem}" if re.fullmatch(r"s\d", folder) else config.stem)
    check_file(place / REPORT, "the report")
    if common.dry_run:
        from orchestrate.pipeline.describe import forecast_pipeline

        show_forecast(forecast_pipeline(loaded, place), common.as_json)
        return
    summary = run_pipeline(loaded, place, common.address, write_report)
    page = summary["report"]
    if common.as_json:
        print(json.dumps(summary))
        return
    if "table" in summary:
        show_table(summary["table"])
    if common.quiet:
        print(page)
    say(f"done in {duration(summary['seconds'])}; report: {page}")
    say(f"MLflow: `qalof ui --root {loaded.tracking.root}` shows the runs at {MLFLOW_PAGE}")


@app.command()
def validate(config: Annotated[Path, typer.Option("--config", callback=at_home)], overrides: Overrides = None) -> None:
    """Say what a config would run and what it would cost; run nothing."""
    from orchestrate.pipeline.describe import describe_config

    print_wrapped(describe_config(config, overrides or []))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(callback=at_home, help="Output folders of pipelines and commands.")],
    form: Annotated[str, typer.Option("--format", help="html, pdf, or both with a comma between.")] = "html,pdf",
    output: Annotated[
        Path | None, typer.Option(callback=at_home, help="Folder to write into; by default that of the runs.")
    ] = None,
) -> None:
    """Write the report of one or more runs: a page and a PDF that answer the brief's questions from them."""
    from orchestrate.report import write_reports

    for path in write_reports(runs, [word.strip() for word in form.split(",")], output):
        print(path)


@app.command()
def ui(
    root: Annotated[Path, typer.Option(callback=at_home, help="Folder of the runs.")] = Path("runs"),
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow on 127.0.0.1 with the runs in a folder."""
    from orchestrate.runs.mlflow_store import ui_command

    if not root.is_dir():
        raise BadInputError(f"--root must be the folder of the runs: {root} does not exist; run something first")
    print(MLFLOW_PAGE.replace("5000", str(port)), file=sys.stderr)
    words = ui_command(root, port)
    os.execvp(words[0], words)
