"""Whether a cluster can ever give what workers ask for, and what they wait for while it cannot yet.

Ray waits for missing resources forever and silently: eight workers with a GPU each on a cluster without
GPUs never start, and neither does a worker of 0.9 CPUs where every node has half a one.  So what is asked for is
compared with what the nodes have *in total*, before anything waits: :func:`check_request` refuses what can never be
had.  What others use at the moment may come free; :func:`told_what_is_missing` then says every few seconds what is
waited for.  A cluster that grows by itself (Ray's autoscaler) is compared with the most that its configuration allows.

The decisions are functions of plain numbers; only :func:`nodes_of` and :func:`largest_growth` ask Ray.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from orchestrate.config.sections import WorkersConfig
from orchestrate.runs.progress import say
from qalof.errors import BadInputError

INTERVAL = 15.0
"""How many seconds lie between two lines on what is waited for."""

Resources = Mapping[str, float]
"""The amounts by Ray's names, such as ``CPU`` and ``GPU``."""


@dataclass(frozen=True)
class Request:
    """Workers that are to run at the same time.

    There are to be ``count`` of them.  One takes ``each``, all from one node.  The work can begin with ``least``.
    """

    count: int
    each: Resources
    least: int

    def __str__(self) -> str:
        return f"{_workers(self.count)} of {_amounts(self.each)}" + (" each" if self.count > 1 else "")


def request_of(workers: WorkersConfig, nodes: Sequence[Resources], count: int | None = None) -> Request:
    """Find what ``workers`` ask of a cluster with these nodes.

    A worker takes one GPU; or one CPU, or the largest equal share with which all of them fit.  Ray's elastic training
    counts no fractions, so with ``min_count`` a worker takes a whole CPU.

    Args:
        workers: the ``workers`` section of the config.
        nodes: the total resources of each node.
        count: a number in place of ``workers.count``, such as 1 for a job that has no use for more.
    """
    count = workers.count if count is None else count
    least = count if workers.min_count is None else min(count, workers.min_count)
    if workers.gpu:
        return Request(count, {"GPU": 1.0}, least)
    share = 1.0 if workers.min_count is not None else cpu_share(count, [node.get("CPU", 0.0) for node in nodes])
    return Request(count, {"CPU": share}, least)


def cpu_share(workers: int, cpus: Sequence[float]) -> float:
    """Compute the CPUs per worker, 1 or less, with which all ``workers`` run at once on nodes with these ``cpus``.

    The share is rounded down to hundredths: Ray keeps four decimals, and N rounded-up shares would not fit.  A worker
    cannot span nodes, so the nodes' sum alone does not decide.

    Raises:
        BadInputError: there are no workers, or the nodes are too small for a hundredth each.
    """
    if workers < 1:
        raise BadInputError(f"workers must be at least 1: got {workers}")
    # the tiny addition keeps 0.29 * 100 from becoming 28
    hundredths = [math.floor(node * 100 + 1e-9) for node in cpus]
    shares = {min(100, node // parts) for node in hundredths for parts in range(1, workers + 1)} - {0}
    for share in sorted(shares, reverse=True):
        if sum(node // share for node in hundredths) >= workers:
            return share / 100
    most = sum(hundredths)
    raise BadInputError(
        f"workers must fit the cluster: got {workers} for {sum(cpus):g} CPUs; "
        f"{max(1, most)} or fewer would, or add a node to the cluster"
    )


def fitting(nodes: Sequence[Resources], each: Resources) -> int:
    """Count how many workers run at once on ``nodes``, each wholly on one of them."""
    # the tiny addition forgives what fractions lose in binary
    return sum(
        min(math.floor(node.get(name, 0.0) / amount + 1e-9) for name, amount in each.items() if amount > 0)
        for node in nodes
    )


def check_request(request: Request, nodes: Sequence[Resources], growth: Resources | None = None) -> None:
    """Refuse what a cluster can never give.

    Args:
        request: what is asked for.
        nodes: the total resources of each node, whether in use or not.
        growth: the most to which a cluster that grows by itself may grow; None for one that does not grow.

    Raises:
        BadInputError: the nodes cannot hold as many workers as the work needs to begin.
    """
    room = fitting(nodes, request.each)
    if room >= request.least:
        return
    if growth is not None:
        if all(growth.get(name, 0.0) >= request.least * amount for name, amount in request.each.items()):
            return
        has = f"grows to {_of(growth, request)} at most"
    else:
        has = f"has {_of(_sum(nodes), request)} on {len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}"
    law = f"workers must fit the cluster: {request} can never be had"
    raise BadInputError(f"{law}, for the cluster {has}; {_way_out(request, room)}")


def check_device(workers: WorkersConfig, cuda: bool) -> None:
    """Refuse a GPU for work in this process where torch sees none.

    Raises:
        BadInputError: torch sees no GPU here; the error says what to set.
    """
    if workers.in_process and workers.gpu and not cuda:
        raise BadInputError(
            "workers.gpu needs a GPU that torch can use: this process has none; set workers.gpu=false, or leave "
            "in_process out and give the --address of a cluster that has one"
        )


def missing_line(request: Request, waiting: int, nodes: Sequence[Resources], free: Resources, grows: bool) -> str:
    """Say in one line what is waited for; ``waiting`` of the workers have no place yet."""
    total = _sum(nodes)
    has = ", ".join(f"{total.get(name, 0.0):g} {name}, {free.get(name, 0.0):g} of them free" for name in request.each)
    more = "; it may add nodes" if grows else ""
    each = Request(waiting, request.each, waiting)
    return f"waiting for room: {each} {'has' if waiting == 1 else 'have'} no place yet; the cluster has {has}{more}"


# --- functions that ask Ray ---


def nodes_of() -> list[dict[str, float]]:
    """Return the total resources of each living node of the connected cluster."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def largest_growth() -> Resources | None:
    """Return the most that the connected cluster's autoscaler may bring; None where there is no autoscaler."""
    from ray._private.state import state

    most: Resources | None = state.get_max_resources_from_cluster_config()
    return most


def admitted(workers: WorkersConfig, count: int | None = None) -> Request:
    """Find what ``workers`` take of the connected cluster, and check that it is possible.

    Raises:
        BadInputError: they can never all start there.
    """
    nodes = nodes_of()
    request = request_of(workers, nodes, count)
    check_request(request, nodes, largest_growth())
    return request


@contextmanager
def told_what_is_missing(request: Request, interval: float = INTERVAL) -> Iterator[None]:
    """Within the block, say every ``interval`` seconds which of the request's workers have no place yet, if any."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(interval):
            if waiting := _without_a_place(request):
                import ray

                free = ray.available_resources()
                say(missing_line(request, waiting, nodes_of(), free, largest_growth() is not None))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _without_a_place(request: Request) -> int:
    """Count the workers of this kind that Ray has queued (actors, tasks and placement groups); 0 where it does not
    say.
    """
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.exceptions import RpcError

    try:
        demands: Any = get_cluster_status(ray.get_runtime_context().gcs_address).resource_demands
    except RpcError:  # a cluster that is lost is reported by whoever waits for its workers
        return 0
    queued = 0
    for demand in [*demands.ray_task_actor_demand, *demands.placement_group_demand]:
        for entry in demand.bundles_by_count:
            if all(math.isclose(entry.bundle.get(name, 0.0), amount) for name, amount in request.each.items()):
                queued += entry.count
    return min(queued, request.count)


def _sum(nodes: Sequence[Resources]) -> dict[str, float]:
    names = {name for node in nodes for name in node}
    return {name: sum(node.get(name, 0.0) for node in nodes) for name in names}


def _of(has: Resources, request: Request) -> str:
    return _amounts({name: has.get(name, 0.0) for name in request.each})


def _amounts(amounts: Resources) -> str:
    return " and ".join(f"{amount:g} {name}{'s' if amount != 1 else ''}" for name, amount in amounts.items())


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count != 1 else ''}"


def _way_out(request: Request, room: int) -> str:
    fewer = f"set workers.count={room}" if request.least == request.count else f"set workers.min_count={room}"
    if "GPU" in request.each:
        return f"{fewer if room else 'set workers.gpu=false'}, or give the --address of a cluster with more GPUs"
    return f"{fewer}, or add a node to the cluster" if room else "add a node to the cluster"
