"""Handing a command of ``qalof`` to a cluster as a Ray job, and following it: a thin front to Ray's job submission.

The job runs ``python -m orchestrate`` with the words of the command, each quoted for the shell that Ray starts, in a
copy of the working directory that the cluster throws away.  So results must go to an absolute path that all nodes see.
What a run leaves there lets the same words go on where a job was stopped; that is all that ``--resume`` does.

Ray's token is found where Ray finds it (:func:`orchestrate.cluster.connection.find_token`) and is no option, since the
words of a command are seen by everybody on a machine.  What ``--env`` passes on stands in the job's description, which
everybody who may list jobs can read.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from orchestrate.cluster.connection import find_token, reread_authentication
from orchestrate.config.loader import read_yaml
from orchestrate.config.shipped import CONFIGS
from qalof.errors import BadInputError, QalofError

ENTRY = ("python", "-m", "orchestrate")
RUNTIME_ENV = CONFIGS / "cluster" / "runtime_env.yaml"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*$")
_POLL = 0.5
"""How many seconds lie between two questions for the state of a job whose log has ended."""


class Client(Protocol):
    """What is asked of :class:`ray.job_submission.JobSubmissionClient`."""

    def submit_job(self, **given: Any) -> str:
        """Start a job, and return its id."""

    def stop_job(self, job_id: str) -> bool:
        """Stop a job, and say whether it was running."""

    def get_job_info(self, job_id: str) -> Any:
        """Describe a job: ``status``, ``entrypoint``, ``message``."""

    def tail_job_logs(self, job_id: str) -> Any:
        """Yield what a job prints, until it ends."""


@dataclass(frozen=True)
class Submission:
    """A command that is to run on a cluster.

    ``words``: the command and its options, without ``qalof``; ``working_dir``: the folder that is copied to the
    cluster; ``environment``: variables that the job has in addition to those of the node on which it runs.
    """

    words: tuple[str, ...]
    working_dir: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def entrypoint(self) -> str:
        """The line for the shell of the cluster, in which every word is quoted."""
        return shlex.join([*ENTRY, *self.words])

    @property
    def runtime_env(self) -> dict[str, Any]:
        """Ray's description of what the job takes along: the working directory without runs and environments."""
        described = {"working_dir": str(self.working_dir), "excludes": read_yaml(RUNTIME_ENV)["excludes"]}
        return described | ({"env_vars": dict(self.environment)} if self.environment else {})


def read_environment(given: Sequence[str]) -> dict[str, str]:
    """Read ``NAME=VALUE``, or ``NAME`` for the value that it has here.

    Raises:
        BadInputError: a name is none, or has no value here.
    """
    found = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not _NAME.match(name):
            raise BadInputError(f"--env must read NAME=VALUE or NAME: got {text!r}; a name has letters, digits and _")
        if not sign and name not in os.environ:
            raise BadInputError(f"--env {name} passes on a variable of this machine: it is not set; give {name}=VALUE")
        found[name] = value if sign else os.environ[name]
    return found


def client_of(address: str) -> Client:
    """Open the job server of a cluster.

    Args:
        address: that of its dashboard, such as ``http://10.0.0.5:8265``.

    Raises:
        BadInputError: the address has another form, nothing answers there, or it refuses the token.
    """
    law = "the address of a job server must be its dashboard's, such as http://10.0.0.5:8265"
    if not re.match(r"https?://[^/\s]+", address):
        raise BadInputError(f"{law}: got {address!r}")
    if find_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    reread_authentication()
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.ERROR)  # it lists every file of rules for what is not sent
    try:
        client: Client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise BadInputError(f"{law}: none answers at {address} ({_line(error)}); `ray start --head` has one") from None
    return client


def submit(client: Client, submission: Submission, name: str | None = None) -> str:
    """Start a job, and return its id; ``name`` is the id that it shall have.

    Raises:
        BadInputError: the cluster refuses it, or has a job of that id.
    """
    given = {"entrypoint": submission.entrypoint, "runtime_env": submission.runtime_env, "submission_id": name}
    try:
        return client.submit_job(**given, metadata={"qalof": submission.words[0]})
    except (RuntimeError, ValueError) as error:
        raise BadInputError(f"the cluster must take the job: it refuses ({_line(error)})") from None


def words_of(client: Client, job: str) -> tuple[str, ...]:
    """Return the words of an earlier job, to submit them again.

    Raises:
        BadInputError: there is no such job, it still runs, or it is none of ours.
    """
    info = _info(client, job)
    words = shlex.split(info.entrypoint)
    if tuple(words[: len(ENTRY)]) != ENTRY:
        raise BadInputError(f"job {job} must be one of `qalof submit` to be resumed: it runs {info.entrypoint!r}")
    if not info.status.is_terminal():
        raise BadInputError(
            f"job {job} must have ended to be resumed: it is {info.status.value}; --follow or --stop it"
        )
    return tuple(words[len(ENTRY) :])


def stop(client: Client, job: str) -> bool:
    """Stop a job; return whether it was running.

    Raises:
        BadInputError: there is no such job.
    """
    _info(client, job)
    return client.stop_job(job)


def follow(client: Client, job: str, write: Callable[[str], object]) -> None:
    """Write what a job prints as it comes, until the job has ended well.

    Raises:
        BadInputError: there is no such job.
        QalofError: the job ended otherwise, or it is not followed any longer and goes on.
    """
    _info(client, job)
    goes_on = f"`qalof submit --follow {job}` reads on, --stop {job} ends it"

    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            write(text)

    try:
        asyncio.run(tail())
        while not (info := _info(client, job)).status.is_terminal():
            time.sleep(_POLL)
    except KeyboardInterrupt:
        raise QalofError(f"job {job} is not followed any longer, and goes on; {goes_on}") from None
    except (RuntimeError, OSError) as error:
        raise QalofError(f"the log of job {job} broke off ({_line(error)}), and the job may go on; {goes_on}") from None
    if info.status.value != "SUCCEEDED":
        again = f"`qalof submit --resume {job}` goes on with it"
        # the logs that Ray appends were read already
        reason = _line(info.message or "no reason is given").partition(", last available logs")[0]
        raise QalofError(f"job {job} ended as {info.status.value}: {reason}; {again}")


def _info(client: Client, job: str) -> Any:
    try:
        return client.get_job_info(job)
    except RuntimeError as error:
        raise BadInputError(f"the cluster must have job {job}: it has none ({_line(error)})") from None


def _line(error: object) -> str:
    """Return the first line of what Ray says, without a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
