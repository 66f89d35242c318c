"""Actor pools: order, lost actors, errors."""

import os
import signal
from pathlib import Path

import pytest
import ray

from orchestrate.cluster.pool import ActorPool
from qalof.errors import BadInputError, QalofError

pytestmark = pytest.mark.ray


@ray.remote(num_cpus=0.1)
class Worker:
    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def do(self, item: int) -> int:
        if item == 3 and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if item == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        if item == 99:
            raise BadInputError("items must be below 99: got 99")
        return item * item


@pytest.fixture
def pool(ray_session, tmp_path):
    made = ActorPool(lambda: Worker.remote(str(tmp_path)), 2)
    yield made
    made.close()


def test_results_are_in_the_order_of_the_items_though_an_actor_is_killed(pool, tmp_path):
    seen = {}
    results = pool.map(list(range(8)), lambda index, result: seen.update({index: result}))
    assert (tmp_path / "died").exists()
    assert results == [item * item for item in range(8)]
    assert seen == dict(enumerate(results))


def test_an_item_that_kills_every_actor_ends_the_work(pool):
    with pytest.raises(QalofError, match="lost more than 2 times over one item"):
        pool.map([1, 13, 2])


def test_without_failures_allowed_the_first_lost_actor_ends_the_work(ray_session, tmp_path):
    pool = ActorPool(lambda: Worker.remote(str(tmp_path)), 1, max_failures=0)
    with pytest.raises(QalofError, match="lost more than 0 times over one item"):
        pool.map([3])
    pool.close()


def test_an_error_comes_back_as_it_was_raised(pool):
    with pytest.raises(BadInputError, match="below 99"):
        pool.map([99])
