"""What all commands share: the app, their options, and how a job is run from them.

Heavy imports wait until a command needs them, so ``--help`` and a misspelt key answer at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from qalof.home import expanded

app = typer.Typer(name="qalof", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"qalof {version('qalof')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Fine-tune, search and attack language models that carry several bit-widths at once."""


def at_home(path: Path | None) -> Path | None:
    """Expand ``~`` in an option's path, which a shell does not do behind a ``=`` or in quotes."""
    return None if path is None else expanded(path)


ConfigOption = Annotated[
    Path | None, typer.Option("--config", callback=at_home, help="A YAML file; all but a few keys have defaults.")
]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value pairs, which override the file.")]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", callback=at_home, help="The run directory; by default runs/NAME, after the config."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="A Ray cluster, HOST:PORT; by default this machine.")
]
CheckpointOption = Annotated[Path | None, typer.Option("--checkpoint", callback=at_home, help="A checkpoint's folder.")]


def run_job(
    name: str,
    config: Path | None,
    overrides: list[str] | None,
    output: Path | None,
    as_json: bool,
    address: str | None,
    given: dict[str, Any] | None = None,
) -> None:
    """Run the job ``name`` and show its result; ``given`` settings, of options, come before the user's overrides."""
    from orchestrate.cli.terminal import show
    from orchestrate.config.loader import load_config
    from orchestrate.jobs.registry import JOBS
    from orchestrate.jobs.run import execute

    loaded = load_config(JOBS[name].config, config, overrides or [], given=given)
    place = output or Path("runs") / run_name(name, config)
    result = execute(name, loaded, place, address)
    if as_json:
        print(json.dumps(result))
    else:
        show(name, result, place)


def run_name(command: str, config: Path | None) -> str:
    """The default run directory's name: a training has that of its config; others begin with their command."""
    if config is None:
        return command
    return config.stem if command == "train" else f"{command}_{config.stem}"


def checkpoint_given(path: Path | None) -> dict[str, Any]:
    """The setting for which a ``--checkpoint`` stands."""
    return {} if path is None else {"checkpoint": str(path)}
