"""Joining a Ray cluster, or starting one on this machine, quietly and with the right share for each worker.

:func:`connect` is the only place that calls ``ray.init`` and ``ray.shutdown``.  Inside a Ray job
``RAY_ADDRESS`` is set and the job's cluster is joined; otherwise, without an address, an instance of our own is
started.  An instance that happens to run on the machine is never joined: plain ``ray.init()`` would pick up any head
node that somebody started there and compete for its CPUs.

**Logical CPUs.**  Ray hands out CPUs as tickets and does not measure their use.  A group of N workers with one ticket
each never starts on a machine with fewer than N, and waits silently.  A local instance therefore gets at least N + 1
tickets (:func:`logical_cpus`): N for the group, and one for a task or an actor of the driver, which would otherwise
wait for the group to end.  A joined cluster's tickets are not ours to set, so there each worker takes a fraction
(:func:`orchestrate.cluster.admission.cpu_share`).  What a worker really computes with is its threads, shared out by
:func:`threads_per_worker`.

**Tokens.**  Ray guards a cluster that it starts with a token (``RAY_AUTH_MODE=token``), since its ports accept code
from whoever reaches them.  A local instance gets its own token in the environment, which its workers inherit, so
nothing is written to the home folder.  When an address is given Ray does not send a token unless ``RAY_AUTH_MODE`` says
so, even if it has one; :func:`connect` sets it when a token is at hand.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import socket
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qalof.errors import BadInputError

#: Seconds within which a cluster that cannot be reached is reported.
PATIENCE = 8.0

#: Set before Ray starts, unless the user has set them.  Ray Train hands its own on to its workers.
DRIVER_ENVIRONMENT: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Accept Ray's coming default now, since Ray warns at every start where it is unset.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A report waits for the controller's next poll: 2 s each by default, 0.1 s with this.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    # Eight workers that import torch on two cores take longer than the default minute.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    **dict.fromkeys(("RAY_TRAIN_METRICS_ENABLED", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"), "0"),
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    **{f"RAY_TRAIN_ENABLE_{who}_STRUCTURED_LOGGING": "0" for who in ("CONTROLLER", "WORKER")},
    # Workers keep the driver's folder, so a relative path means the same in both.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Trials are recorded in MLflow and by the study; Tune's own files cost most of a short trial's time.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",
    **dict.fromkeys(("TUNE_RESULT_BUFFER_LENGTH", "TUNE_PRINT_ALL_TRIAL_ERRORS"), "0"),
    "TUNE_WARN_THRESHOLD_S": "60",
}

_PASSED_ON = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Cluster:
    """What there is to work with: ``cpus`` are Ray's tickets, not cores; a ``joined`` cluster was there before us."""

    address: str
    cpus: float
    gpus: float
    joined: bool


def physical_cores() -> int:
    """Return how many cores this process may use; a container's or taskset's limit counts, where the system tells
    it.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def logical_cpus(workers: int, cores: int) -> int:
    """Compute the tickets of a local instance that is to run ``workers`` workers of one CPU each, and one more task."""
    return max(cores, workers + 1)


def threads_per_worker(workers: int, cores: int) -> int:
    """Compute the threads of each worker's tensor operations; more than there are cores in all would only slow them
    down.
    """
    return max(1, cores // max(1, workers))


def worker_environment(workers: int, cores: int | None = None) -> dict[str, str]:
    """Make the environment variables of each of ``workers`` workers on a machine: its threads, and offline use of the
    hub.

    Ray sets ``OMP_NUM_THREADS`` from a worker's tickets, which say nothing about the cores; this value wins over it.
    """
    threads = str(threads_per_worker(workers, physical_cores() if cores is None else cores))
    settings = {**dict.fromkeys(_THREAD_VARIABLES, threads), "TOKENIZERS_PARALLELISM": "false"}
    return settings | {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def find_token() -> str | None:
    """Find the token that Ray would use, in the environment, the file that it names, or ``~/.ray/auth_token``; None if
    none is there.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    place = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        return (Path(place) if place else Path.home() / ".ray" / "auth_token").read_text().strip() or None
    except (OSError, RuntimeError):  # there is no such file, or no home folder
        return None


def check_address(address: str) -> tuple[str, int]:
    """Take ``host:port`` of the head node apart.

    Raises:
        BadInputError: the address has another form; a dashboard's or a Ray client's address is recognized.
    """
    law = f"the cluster's address must be HOST:PORT of its head node: got {address!r}"
    if address.startswith(("http://", "https://")):
        raise BadInputError(f"{law}, a dashboard's; use it with `ray job submit --address`, or give HOST:6379")
    if "://" in address:
        raise BadInputError(f"{law}, a client's; give HOST:6379 on a node of the cluster, or use `ray job submit`")
    match = re.fullmatch(r"(?P<host>\[[^\]]+\]|[^:\s]+):(?P<port>\d{1,5})", address)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise BadInputError(f"{law}; such as 10.0.0.5:6379, or leave it out to run on this machine")
    return match["host"].strip("[]"), int(match["port"])


@contextlib.contextmanager
def connect(
    address: str | None = None,
    num_cpus: int | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    log_to_driver: bool = False,
) -> Iterator[Cluster]:
    """Join a cluster or start a local instance; on leaving, end what was started here.

    Within another :func:`connect` the outer one's cluster is used, whatever the address, and left running.

    Args:
        address: ``host:port`` of a head node; ``local`` for an instance of our own in any case; None for the job's
            cluster inside a Ray job, and otherwise for an instance of our own.
        num_cpus: the tickets of a local instance, usually from :func:`logical_cpus`; they are ignored on joining.
        environment: the variables of every worker, usually from :func:`worker_environment`.
        log_to_driver: whether to print what workers print.

    Raises:
        BadInputError: the same as for :func:`probe`.
    """
    for name, value in DRIVER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray = _import_ray()
    if ray.is_initialized():
        yield _describe(ray, joined=True)
        return
    place = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": log_to_driver, "logging_level": logging.ERROR}
    if environment:
        options["runtime_env"] = {"env_vars": dict(environment)}
    before = dict(os.environ)
    try:
        if place == "local":
            _start(ray, num_cpus, options)
        else:
            try:
                _join(ray, place, options)
            except BadInputError as error:
                law = "RAY_ADDRESS must name a cluster that can be joined, or be unset to start one here"
                raise error if address else BadInputError(f"{law}: got {place!r}; {error}") from None
        yield _describe(ray, joined=place != "local")
    finally:
        ray.shutdown()
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            os.environ.pop(name, None)
            os.environ.update({name: before[name]} if name in before else {})


def _import_ray() -> Any:
    """Import Ray, without the warnings about its own coming defaults."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"ray\..*")
    import ray

    return ray


def _start(ray: Any, num_cpus: int | None, options: Mapping[str, Any]) -> None:
    """Start a local instance without a dashboard, guarded by a token that nobody else knows."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] == "token" and find_token() is None:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    reread_authentication()
    ray.init(
        address="local",
        num_cpus=physical_cores() if num_cpus is None else num_cpus,
        include_dashboard=False,
        _temp_dir=_short_temp_dir(),
        **options,
    )


def _join(ray: Any, address: str, options: Mapping[str, Any]) -> None:
    """Join the cluster at ``address``, or say in one line why that fails."""
    probe(address)
    if find_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    reread_authentication()
    try:
        ray.init(address=address, **options)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInputError(_unreachable(address, reason)) from None


def _unreachable(address: str, reason: str) -> str:
    way_out = "start one with `ray start --head`, correct the address, or leave it out to run on this machine"
    return f"the Ray cluster must be reachable: none answers at {address} ({reason}); {way_out}"


def probe(address: str) -> None:
    """Ask the head node for its id, as Ray's own client does first, but once and with a time limit.

    ``ray.init`` would try for two minutes where something other than Ray listens, and for twenty seconds with a wrong
    token, and print a line for each attempt.

    Raises:
        BadInputError: the address is malformed, no Ray answers there within about 10 s, or it refuses our token.
    """
    host, port = check_address(address)
    try:
        with socket.create_connection((host, port), timeout=PATIENCE):
            pass
    except OSError as error:
        raise BadInputError(_unreachable(address, error.strerror or str(error))) from None
    if os.environ.get("RAY_USE_TLS", "0") == "1":
        return  # a head node that works would refuse a plain channel
    import grpc  # type: ignore[import-untyped]

    token = find_token()
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
        try:
            ask(b"", timeout=PATIENCE, metadata=[("authorization", f"Bearer {token}")] if token else None)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise BadInputError(_refused(address, token)) from None
            reason = f"what listens there is no head node, whose port is 6379 unless set: {error.code().name}"
            raise BadInputError(_unreachable(address, reason)) from None


def _refused(address: str, token: str | None) -> str:
    return (
        f"the Ray cluster at {address} must be given its token: {'got another one' if token else 'got none'}; set "
        "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a copy of the token file that its head node was started with"
    )


def reread_authentication() -> None:
    """Make an imported Ray see changed RAY_AUTH_ variables: it keeps what it read on import."""
    from ray import _raylet

    _raylet.Config.initialize("")  # type: ignore[attr-defined]
    _raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]


def _short_temp_dir() -> str | None:
    """Choose where Ray's sockets go: None leaves it to Ray, unless their paths would exceed the system's 107
    characters.
    """
    if os.environ.get("RAY_TMPDIR") or len(tempfile.gettempdir()) <= 32:
        return None
    return "/tmp/ray"


def machines() -> int:
    """Return how many machines the cluster that is connected has; Ray nodes on one machine count once."""
    ray = _import_ray()
    return len({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]})


def _describe(ray: Any, joined: bool) -> Cluster:
    resources = ray.cluster_resources()
    cpus, gpus = (float(resources.get(name, 0)) for name in ("CPU", "GPU"))
    return Cluster(ray.get_runtime_context().gcs_address, cpus, gpus, joined)
