"""What a trial's failure leads to: an error of its own ends the search, a lost actor begins the trial again."""

import os
import signal
from pathlib import Path

import pytest

from orchestrate.cluster.carried_error import error_as_text
from orchestrate.cluster.failure_policy import FailurePolicy
from orchestrate.cluster.tune import RAISED, StatelessSearcher, StatelessTrial, run_trials
from orchestrate.config.sections import WorkersConfig
from qalof.errors import BadInputError, QalofError


class Numbers(StatelessSearcher[int]):
    """Gives out the numbers 0 to 3, one trial each."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, object] = {}

    def waiting(self):
        return [number for number in range(4) if number not in self.found]

    def config_of(self, item: int):
        return {"number": item}

    def ended(self, item: int, result) -> None:
        self.found[item] = result["square"]


class Square(StatelessTrial):
    """Squares its number, unless the folder says what to do first; notes each beginning."""

    def begin(self) -> None:
        if (Path(self.config["folder"]) / "refuse").exists():
            raise BadInputError("a checkpoint must be whole: this one is not")
        self.die("begin")

    def next(self) -> None:
        self.die("next")

    def advance(self):
        folder, number = Path(self.config["folder"]), self.config["number"]
        with (folder / f"begun-{number}").open("a") as file:
            file.write("once\n")
        if number == 2 and (folder / "raise").exists():
            raise BadInputError("numbers must not be 2: got 2")
        if number == 2:
            self.die("advance")
        return {"square": number**2, "done": True}

    def die(self, here: str) -> None:
        """Kill this process where the folder has a file ``die-<here>``; each of its lines is one death."""
        file = Path(self.config["folder"]) / f"die-{here}"
        if file.exists() and (deaths := file.read_text().splitlines()):
            file.write_text("\n".join(deaths[1:]))
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path, max_failures: int) -> Numbers:
    searcher = Numbers()
    workers = WorkersConfig(count=1, max_failures=max_failures)
    run_trials(Square, searcher, {"folder": str(folder)}, workers, folder)
    return searcher


@pytest.mark.ray
@pytest.mark.parametrize(("what", "law", "beginnings"), [("raise", "must not be 2", 1), ("refuse", "must be whole", 0)])
def test_an_error_that_a_trial_raised_ends_the_search_as_it_was_raised_and_is_not_repeated(
    ray_session, tmp_path, what, law, beginnings
):
    (tmp_path / what).touch()
    with pytest.raises(BadInputError, match=law):
        run(tmp_path, max_failures=3)
    begun = tmp_path / "begun-2"
    assert (begun.read_text().count("once") if begun.exists() else 0) == beginnings


# in a new actor, in one that has ended another trial, and at work
@pytest.mark.ray
@pytest.mark.parametrize("here", ["begin", "next", "advance"])
def test_an_item_that_lost_its_actor_is_begun_again_max_failures_times_wherever_it_was(
    ray_session, tmp_path, capfd, here
):
    (tmp_path / f"die-{here}").write_text("once")
    assert run(tmp_path, max_failures=1).found == {0: 0, 1: 1, 2: 4, 3: 9}
    assert "did not complete" not in "".join(capfd.readouterr())
    (tmp_path / f"die-{here}").write_text("once")
    with pytest.raises(QalofError, match="lost more than 0 times"):
        run(tmp_path, max_failures=0)


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_lost_items_are_given_out_again_as_often_as_the_policy_allows_and_others_are_not_held_up(monkeypatch, allowed):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    searcher = Numbers()
    searcher.policy = FailurePolicy(allowed)
    assert searcher.suggest("other") == {"number": 0}
    for attempt in range(allowed + 1):
        assert searcher.suggest(f"trial {attempt}") == {"number": 1}
        assert not searcher.failed
        searcher.on_trial_complete(f"trial {attempt}", None, error=True)
    assert searcher.failed
    assert searcher.suggest("after") == searcher.FINISHED
    searcher.on_trial_complete("other", {"square": 0})
    assert searcher.found == {0: 0}


def test_the_first_error_of_a_trial_ends_the_search():
    searcher = Numbers()
    assert isinstance(searcher.suggest("a"), dict)
    assert isinstance(searcher.suggest("b"), dict)
    searcher.on_trial_complete("a", {RAISED: error_as_text(BadInputError("first")), "done": True})
    searcher.on_trial_complete("b", {RAISED: error_as_text(BadInputError("second")), "done": True})
    assert str(searcher.error) == "first"
    assert searcher.suggest("c") == searcher.FINISHED
    assert searcher.found == {}
