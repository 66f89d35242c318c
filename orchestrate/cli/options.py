"""What all commands share: the app, their options, and how a job is run from them.

Heavy imports wait until a command needs them, so ``--help`` and a misspelled key answer at once.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qalof.errors import BadInputError
from qalof.home import expanded

if TYPE_CHECKING:
    from orchestrate.runs.progress import Verbosity

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


def at_home(path: Any) -> Any:
    """Expand ``~`` in the path or paths of an option, which a shell does not do behind a ``=`` or in quotes."""
    if isinstance(path, list | tuple):
        return [expanded(each) for each in path]
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
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would run, what of it is finished and what it costs; run nothing.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result and errors alone.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Print a line for every unit of work and file.")]


@dataclass(frozen=True)
class Common:
    """What every command that runs jobs is given; each field is the option of its name, or the overrides."""

    overrides: Sequence[str]
    config: Path | None
    output: Path | None
    as_json: bool
    dry_run: bool
    quiet: bool
    address: str | None = None


_COMMON: dict[str, Any] = {
    "overrides": (Overrides, None),
    "config": (ConfigOption, None),
    "output": (OutputOption, None),
    "as_json": (JsonOption, False),
    "address": (AddressOption, None),
    "dry_run": (DryRunOption, False),
    "quiet": (QuietOption, False),
    "verbose": (VerboseOption, False),
}


def with_common(work: Callable[..., None], *, without: Sequence[str] = ()) -> Callable[..., None]:
    """Make a command of ``work``, which takes a :class:`Common` and the command's own options.

    Args:
        work: the function; its own parameters follow the first one.
        without: names of common options that the command lacks, or has in a form of its own; they are None.
    """
    own = list(inspect.signature(work, eval_str=True).parameters.values())[1:]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _COMMON.items()
        if name not in without
    ]

    def command(**given: Any) -> None:
        from orchestrate.runs.progress import telling

        verbosity = verbosity_of(given["quiet"], given.pop("verbose"))
        taken = {name: given.pop(name) for name in _COMMON if name in given and name not in without}
        absent = dict.fromkeys(without)
        with telling(verbosity):
            work(Common(**{**taken, **absent, "overrides": taken.get("overrides") or []}), **given)

    parameters = [*shared, *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own)]
    command.__name__, command.__doc__ = work.__name__, work.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def verbosity_of(quiet: bool, verbose: bool) -> Verbosity:
    """Return how much a command tells on standard error.

    Raises:
        BadInputError: both are wanted.
    """
    from orchestrate.runs.progress import Verbosity

    if quiet and verbose:
        raise BadInputError("only one of --quiet and --verbose has a meaning: got both; leave one out")
    return Verbosity.QUIET if quiet else Verbosity.VERBOSE if verbose else Verbosity.NORMAL


def run_job(name: str, common: Common, given: dict[str, Any] | None = None) -> None:
    """Run the job ``name`` and show its result; ``given`` settings, of options, come before the user's overrides."""
    from orchestrate.cli.terminal import show
    from orchestrate.config.loader import load_config
    from orchestrate.jobs.registry import JOBS
    from orchestrate.jobs.run import execute

    loaded = load_config(JOBS[name].config, common.config, common.overrides, given=given)
    place = common.output or Path("runs") / run_name(name, common.config)
    if common.dry_run:
        from orchestrate.pipeline.describe import forecast_job

        show_forecast(forecast_job(name, loaded, place), common.as_json)
        return
    result = execute(name, loaded, place, common.address)
    if common.as_json:
        print(json.dumps(result))
    else:
        show(name, result, place)


def show_forecast(forecast: Any, as_json: bool) -> None:
    """Print what would run, as lines or as one JSON object."""
    if as_json:
        print(json.dumps({"dry_run": True, **forecast.to_json()}))
        return
    for line in forecast.lines():
        print_wrapped(line)


def print_wrapped(text: str) -> None:
    """Print lines that fit the terminal; the rest of a longer one is indented further, and a path stays whole."""
    from rich.console import Console

    from orchestrate.document.sheet import wrapped

    width = Console().width
    for line in text.splitlines():
        words = line.lstrip()
        whole = len(line) <= width or " " not in words
        for part in [line] if whole else wrapped(words, width, indent=" " * (len(line) - len(words))):
            print(part)


def run_name(command: str, config: Path | None) -> str:
    """Return the default run directory's name: a training has that of its config; others begin with their command."""
    if config is None:
        return command
    return config.stem if command == "train" else f"{command}_{config.stem}"


def checkpoint_given(path: Path | None) -> dict[str, Any]:
    """Return the setting for which a ``--checkpoint`` stands."""
    return {} if path is None else {"checkpoint": str(path)}
