"""``qalof submit``: any command as a job of a Ray cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main

from orchestrate.cli.options import JsonOption, app, at_home
from qalof.errors import BadInputError, nearest_hint

RUNNING = ("run", "demo")
HERE_ALONE = ("submit", "ui")
"""The commands that have no place in a job."""


@app.command()
def submit(
    words: Annotated[list[str] | None, typer.Argument(help="A command and its options, behind --.")] = None,
    address: Annotated[
        str, typer.Option("--address", help="The dashboard of the cluster, http://HOST:8265.")
    ] = "http://127.0.0.1:8265",
    working_dir: Annotated[
        Path, typer.Option("--working-dir", callback=at_home, help="The folder that is copied to the cluster.")
    ] = Path(),
    env: Annotated[
        list[str] | None, typer.Option("--env", help="NAME=VALUE, or NAME for its value here; may be repeated.")
    ] = None,
    name: Annotated[str | None, typer.Option("--id", help="The id of the new job; by default Ray makes one.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return as soon as the cluster has the job.")] = False,
    follow: Annotated[str | None, typer.Option("--follow", help="Read the log of an earlier job, by its id.")] = None,
    stop: Annotated[str | None, typer.Option("--stop", help="Stop an earlier job, by its id.")] = None,
    resume: Annotated[str | None, typer.Option("--resume", help="Submit the words of an ended job again.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be submitted, and submit nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a command as a job of a Ray cluster, and follow its log; the same words go on where a job was stopped."""
    from orchestrate.cluster import submission as jobs

    asked = [option for option in (follow, stop, resume, words) if option]
    if len(asked) != 1:
        raise BadInputError(
            "submit needs one of a command behind --, --follow, --stop and --resume: got several or none"
        )
    if stop is not None:
        was = jobs.stop(jobs.client_of(address), stop)
        _say({"id": stop, "stopped": was}, f"job {stop} {'is stopped' if was else 'had ended'}", as_json)
        return
    if words:
        check_words(words)
    client = None if dry_run and words else jobs.client_of(address)
    if follow is None:
        if client is not None and resume is not None:
            words = list(jobs.words_of(client, resume))
        made = jobs.Submission(tuple(words or ()), _folder(working_dir), jobs.read_environment(env or ()))
        if client is None or dry_run:
            found = {"dry_run": True, "entrypoint": made.entrypoint, "runtime_env": _without_values(made.runtime_env)}
            _say(found, made.entrypoint, as_json)
            return
        job = jobs.submit(client, made, name)
        if detach:
            _say({"id": job}, f"job {job} is submitted; `qalof submit --follow {job}` reads its log", as_json)
            return
        print(f"job {job}; after Ctrl-C it goes on, `qalof submit --stop {job}` ends it", file=sys.stderr)
    else:
        job = follow
    assert client is not None
    jobs.follow(client, job, lambda text: print(text, end="", file=sys.stderr if as_json else sys.stdout, flush=True))
    _say({"id": job, "status": "SUCCEEDED"}, f"job {job} is done", as_json)


def check_words(words: Sequence[str]) -> None:
    """Refuse a command whose results would be lost, before anything is sent.

    Raises:
        BadInputError: there is no such command, or its results would go into the copy of the working directory.
    """
    from orchestrate.config.loader import read_yaml
    from orchestrate.jobs.registry import JOBS

    group: Any = typer.main.get_command(app)
    known = [name for name in group.commands if name not in HERE_ALONE]
    if words[0] not in known:
        raise BadInputError(f"a job must be a command of qalof: got {words[0]!r}; {nearest_hint(words[0], known)}")
    if words[0] not in JOBS and words[0] not in RUNNING:
        return
    with group.commands[words[0]].make_context(words[0], list(words[1:]), resilient_parsing=False) as context:
        given = context.params
    lost = "a job runs in a copy of the working directory that the cluster throws away"
    output, config, overrides = given.get("output"), given.get("config"), given.get("overrides") or ()
    if output is None or not output.is_absolute():
        raise BadInputError(f"{lost}: --output must be an absolute path that all nodes see, got {output}")
    if words[0] == "export" and config is None:
        return  # such an export has no record
    tracking = (read_yaml(config).get("tracking") if config is not None and config.is_file() else None) or {}
    named = {key.partition("=")[0]: key.partition("=")[2] for key in overrides}
    root = named.get("tracking.root", tracking.get("root", "runs"))
    uri = named.get("tracking.uri", tracking.get("uri"))
    if uri in (None, "null") and not Path(root).is_absolute():
        raise BadInputError(f"{lost}: the record needs tracking.uri, or an absolute tracking.root, got {root}")


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise BadInputError(f"--working-dir must be a folder: {path} is none")
    return path.absolute()


def _without_values(runtime_env: dict[str, Any]) -> dict[str, Any]:
    """Leave out the values of variables, which may be secrets."""
    names = dict.fromkeys(runtime_env.get("env_vars", {}), "...")
    return {**runtime_env, **({"env_vars": names} if names else {})}


def _say(found: dict[str, Any], line: str, as_json: bool) -> None:
    print(json.dumps(found) if as_json else line)
