"""The command line: one command a job, all with the same options and the same exit codes.

Exit code 0: done; 2: bad input, with one line on standard error that says what, where and how to mend it; 1: anything
else.  Progress goes to standard error; with ``--json`` the result is the last line of standard output.
Heavy imports wait until a command needs them, so that ``--help`` and a misspelt key answer at once.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from qalof.errors import BadInputError, QalofError

app = typer.Typer(
    name="qalof", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)

ConfigOption = Annotated[Path | None, typer.Option("--config", help="YAML file; every key has a default but a few.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value pairs that go before the file.")]
OutputOption = Annotated[Path | None, typer.Option("--output", help="Run directory; default runs/NAME.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")]
AddressOption = Annotated[str | None, typer.Option("--address", help="Ray cluster, HOST:PORT; default this machine.")]
CheckpointOption = Annotated[Path | None, typer.Option("--checkpoint", help="A checkpoint's folder.")]

REPOSITORY = Path(__file__).resolve().parent.parent
MLFLOW_PAGE = "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"
"""Without the parameter MLflow 3 opens on traces of conversations, of which there are none."""
DEMO = REPOSITORY / "configs" / "demo.yaml"


def _command(
    name: str,
    config: Path | None,
    overrides: list[str] | None,
    output: Path | None,
    as_json: bool,
    address: str | None,
    extra: list[str] | None = None,
) -> None:
    from orchestrate.config_file import load_config
    from orchestrate.jobs import JOBS, execute
    from orchestrate.summary import show

    loaded = load_config(JOBS[name].config, config, [*(extra or []), *(overrides or [])])
    place = output or Path("runs") / (config.stem if config else name)
    result = execute(name, loaded, place, address)
    if as_json:
        print(json.dumps(result))
    else:
        show(name, result, place)


def _checkpoint(path: Path | None) -> list[str]:
    return [] if path is None else [f"checkpoint={path}"]


@app.command()
def train(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Fine-tune by switchable precision, cascade distillation or cyclic precision on N workers."""
    _command("train", config, overrides, output, as_json, address)


@app.command()
def evaluate(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
    checkpoint: CheckpointOption = None,
    bitmap: Annotated[
        list[str] | None, typer.Option("--bitmap", help="8, w4a8, 8,8,4,4, striped84, a .json file.")
    ] = None,
) -> None:
    """Score a checkpoint at bitmaps."""
    extra = [f"bitmaps=[{','.join(json.dumps(spec) for spec in bitmap)}]"] if bitmap else []
    _command("evaluate", config, overrides, output, as_json, address, _checkpoint(checkpoint) + extra)


@app.command()
def sensitivity(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Rank sites or blocks by what lowering each alone costs."""
    _command("sensitivity", config, overrides, output, as_json, address, _checkpoint(checkpoint))


@app.command()
def search(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Search per-layer bitmaps for the front of quality against cost."""
    _command("search", config, overrides, output, as_json, address, _checkpoint(checkpoint))


@app.command()
def attack(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
    checkpoint: CheckpointOption = None,
) -> None:
    """Attack a classifier at several bitmaps; measure transfer and random precision inference."""
    _command("attack", config, overrides, output, as_json, address, _checkpoint(checkpoint))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="A checkpoint's folder.")],
    bitmap: Annotated[str, typer.Option("--bitmap", help="8, w4a8, 8,8,4,4, striped84, a .json file.")],
    output: Annotated[Path, typer.Option("--output", help="Folder to write; must be new, or an older export.")],
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint at one bitmap as packed integers."""
    from orchestrate.export_job import describe, export_packed

    result = export_packed(checkpoint, bitmap, output)
    print(json.dumps(result) if as_json else describe(result))


@app.command()
def run(
    overrides: Overrides = None,
    config: ConfigOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Run a pipeline, step by step, and write its report."""
    if config is None:
        raise BadInputError("run needs --config: a pipeline such as configs/demo.yaml")
    _pipeline(config, overrides, output, as_json, address)


@app.command()
def demo(
    overrides: Overrides = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """The whole story on the shipped tiny model: train, evaluate, search, attack, report."""
    if not DEMO.is_file():
        raise BadInputError(
            f"demo needs the repository's configs: {DEMO} does not exist; install with `pip install -e .`"
        )
    _pipeline(DEMO, overrides, output, as_json, address)


def _pipeline(
    config: Path, overrides: list[str] | None, output: Path | None, as_json: bool, address: str | None
) -> None:
    from orchestrate.config_file import load_config
    from orchestrate.pipeline import PipelineConfig, run_pipeline
    from orchestrate.progress import say
    from orchestrate.report import write_report

    loaded = load_config(PipelineConfig, config, overrides or [])
    place = output or Path("runs") / config.stem
    summary = run_pipeline(loaded, place, address)
    page = write_report(place)
    if as_json:
        print(json.dumps({**summary, "report": str(page)}))
        return
    say(f"done in {summary['seconds']:.0f} s; report: {page}")
    say(f"MLflow: `qalof ui --root {loaded.tracking.root}` shows the runs at {MLFLOW_PAGE}")


@app.command()
def validate(config: Annotated[Path, typer.Option("--config")], overrides: Overrides = None) -> None:
    """Say what a config would run and what it would cost; run nothing."""
    from orchestrate.summary import describe_config

    print(describe_config(config, overrides or []))


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A pipeline's output folder.")]) -> None:
    """Write the HTML report of a pipeline's runs."""
    from orchestrate.report import write_report

    print(write_report(folder))


@app.command()
def ui(
    root: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow on 127.0.0.1 over the runs in a folder."""
    from orchestrate.tracking import ui_command

    if not root.is_dir():
        raise BadInputError(f"--root must be the folder of the runs: {root} does not exist; run something first")
    print(MLFLOW_PAGE.replace("5000", str(port)), file=sys.stderr)
    words = ui_command(root, port)
    os.execvp(words[0], words)


def main() -> None:
    """Entry point of ``qalof`` and ``python -m orchestrate``."""
    try:
        app(standalone_mode=False)
    except QalofError as error:
        _fail(str(error), error.exit_code)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except typer.Abort:
        _fail("stopped; the same command goes on from here", 1)
    except KeyboardInterrupt:
        _fail("stopped; the same command goes on from here", 1)
    except Exception as error:
        usage = _usage_error(error)
        if usage is None:
            raise
        _fail(usage, 2)


def _usage_error(error: Exception) -> str | None:
    """The message of what click found wrong with the words of the command; None for anything else."""
    formatted: Any = getattr(error, "format_message", None)
    return str(formatted()) if formatted is not None else None


def _fail(message: str, code: int) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
