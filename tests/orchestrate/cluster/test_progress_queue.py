"""Progress from workers to the driver: nothing is lost at the end, and a lost queue ends nobody's work."""

import time

import pytest
import ray

from orchestrate.cluster.progress_queue import put, watched_queue
from qalof.errors import DiskError

pytestmark = pytest.mark.ray


@ray.remote(num_cpus=0.1)
def steps(queue, count, pause=0.0):
    for number in range(count):
        put(queue, number)
        time.sleep(pause)
    return count


def test_every_item_arrives_in_order_and_while_the_worker_runs(ray_session):
    seen: list[list[int]] = []
    with watched_queue(seen.append) as queue:
        ray.get(steps.remote(queue, 40, 0.05))
    assert [number for items in seen for number in items] == list(range(40))
    assert len([items for items in seen if items]) > 1, "all came at the end"


def test_a_full_disk_delays_items_and_at_the_end_it_is_an_error(ray_session):
    seen: list[int] = []
    full = [True, True]

    def take(items: list[int]) -> None:
        if items and full:
            full.pop()
            raise DiskError("there", "full")
        seen.extend(items)

    with watched_queue(take) as queue:
        ray.get(steps.remote(queue, 5))
        until = time.monotonic() + 60
        while not seen and time.monotonic() < until:
            time.sleep(0.05)
    assert seen == list(range(5))

    def refuse(items: list[int]) -> None:
        raise DiskError("there", "full")

    with pytest.raises(DiskError), watched_queue(refuse) as queue:
        put(queue, 1)


def test_a_lost_queue_is_begun_anew_and_no_worker_fails(ray_session):
    seen: list[int] = []
    with watched_queue(seen.extend) as queue:
        running = steps.remote(queue, 100, 0.05)
        until = time.monotonic() + 60
        while not seen and time.monotonic() < until:
            time.sleep(0.05)
        ray.kill(queue.actor, no_restart=False)
        assert ray.get(running) == 100
    assert seen == sorted(set(seen))
    assert seen[-1] == 99
