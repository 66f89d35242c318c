"""Actor pools: order, lost actors, errors."""

import os
import signal
import time
from pathlib import Path

import pytest
import ray

from orchestrate.cluster.failure_policy import FailurePolicy
from orchestrate.cluster.pool import ActorPool
from orchestrate.config.sections import WorkersConfig
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
        if item > 1000:
            for _ in range(item - 1000):
                with (self.folder / str(item)).open("a") as file:
                    file.write("still running\n")
                time.sleep(0.05)
        if item == 98:
            while not any(self.folder.glob("1???")):
                time.sleep(0.01)
        if item in (98, 99):
            raise BadInputError(f"items must be below 98: got {item}")
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


def test_the_actors_that_are_left_do_the_work_of_one_that_finds_no_place(ray_session, tmp_path):
    """As where a node is lost and no other comes."""
    (tmp_path / "died").touch()
    begun = []

    def factory():
        begun.append(Worker.options(resources={"a lost node": 1} if begun else {}).remote(str(tmp_path)))
        return begun[-1]

    pool = ActorPool(factory, 2)
    assert pool.map(list(range(8))) == [item * item for item in range(8)]
    assert len(begun) == 2
    pool.close()


def test_an_item_that_kills_every_actor_ends_the_work(pool):
    with pytest.raises(QalofError, match="lost more than 2 times over one piece of work"):
        pool.map([1, 13, 2])


def test_without_failures_allowed_the_first_lost_actor_ends_the_work(ray_session, tmp_path):
    pool = ActorPool(lambda: Worker.remote(str(tmp_path)), 1, policy=FailurePolicy(0))
    with pytest.raises(QalofError, match="lost more than 0 times over one piece of work"):
        pool.map([3])
    pool.close()


def test_an_error_comes_back_as_it_was_raised(pool):
    with pytest.raises(BadInputError, match="below 98"):
        pool.map([99])


def wait_until(condition) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("by", ["the work", "the caller"])
def test_nothing_goes_on_after_an_error_and_the_pool_is_as_good_as_before(pool, tmp_path, by):
    def refuse(index: int, result: int) -> None:
        wait_until((tmp_path / "1900").exists)
        raise BadInputError("items must be below 98: got 2")

    with pytest.raises(BadInputError, match="below 98"):
        pool.map([1900, 98] if by == "the work" else [1900, 2], refuse)
    sizes = [-1]
    wait_until(lambda: sizes.append((tmp_path / "1900").stat().st_size) or time.sleep(0.5) or sizes[-1] == sizes[-2])
    assert sizes[-1] < 900 * len("still running\n"), "it was stopped, not waited for"
    assert pool.map([1, 2, 4]) == [1, 4, 16]


class Refusing:
    """Cannot be made."""

    def __init__(self, folder: str) -> None:
        with (Path(folder) / "made").open("a") as file:
            file.write("once\n")
        raise BadInputError("a checkpoint must be whole: this one is not")

    def do(self, item: int) -> int:
        return item


@pytest.mark.parametrize("workers", [WorkersConfig(count=1), WorkersConfig(count=1, in_process=True)])
def test_an_error_in_making_the_worker_comes_back_as_it_was_raised_and_is_not_repeated(ray_session, tmp_path, workers):
    from orchestrate.cluster.evaluation_pool import pool_of  # imports torch, in every actor of this file

    pool = pool_of(Refusing, workers, str(tmp_path))
    with pytest.raises(BadInputError, match="must be whole"):
        pool.map([1])
    pool.close()
    assert (tmp_path / "made").read_text() == "once\n"
