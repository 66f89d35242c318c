"""The command line: one command per job, all with the same options and the same exit codes.

Exit code 0: done; 2: bad input, with one line on standard error that says what, where and how to mend it; 1: anything
other than these.  Progress goes to standard error; with ``--json`` the result is the last line of standard output.
"""

from __future__ import annotations

import gc
import sys
import traceback
from types import TracebackType
from typing import Any

import typer

from orchestrate.cli import jobs as cli_jobs
from orchestrate.cli import runs as cli_runs
from orchestrate.cli import submit as cli_submit
from orchestrate.cli import tools as cli_tools
from orchestrate.cli.options import app
from orchestrate.config.redaction import redact
from orchestrate.config.renamed import RENAMED, command_hint
from qalof.errors import QalofError
from qalof.home import has_home
from qalof.writing import writing_error

__all__ = ["app", "cli_jobs", "cli_runs", "cli_submit", "cli_tools", "main"]

STOPPED = "stopped; the same command goes on from here"
COLLECT_AFTER = 10_000
"""How many new objects there must be before garbage is looked for.  The libraries make a million that stay, and looking
through these after every 700, which is Python's habit, takes a fifth of a command's start."""


def main() -> None:
    """Run ``qalof``, or ``python -m orchestrate``."""
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
    sys.excepthook = _unexpected
    try:
        # typer hands back the code of an exit, such as 130 after Ctrl-C, where it is not to end the process itself
        if app(standalone_mode=False):
            _fail(STOPPED, 1)
    except QalofError as error:
        _fail(str(error), error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        _fail(STOPPED, 1)
    except Exception as error:
        usage = _usage_error(error)
        if usage is not None and usage.startswith("Usage: "):  # the command was called without a word: this is its help
            print(usage)
            sys.exit(0)
        if usage is not None:
            _fail(usage, 2)
        if isinstance(error, RuntimeError) and not has_home():
            _fail(f"a home folder is needed, by Ray at least ({error}): this user has none; set HOME to a folder", 2)
        ours = writing_error(error, error.filename) if isinstance(error, OSError) and error.filename else None
        if ours is None:
            raise
        _fail(str(ours), ours.exit_code)


def _unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an unforeseen error, without the secrets of addresses."""
    print(redact("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")


def _usage_error(error: Exception) -> str | None:
    """Word what click found wrong with the words of the command; None for any other error."""
    formatted: Any = getattr(error, "format_message", None)
    if formatted is None:
        return None
    message = str(formatted())
    old = next((name for name in RENAMED if message.startswith(f"No such command '{name}'")), None)
    return message if old is None else f"there is no command {old!r}; {command_hint(old, ())}"


def _fail(message: str, code: int) -> None:
    print(f"error: {redact(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(code)
