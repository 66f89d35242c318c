"""What a trial's failure leads to: an error of its own ends the search, a lost actor begins the trial again."""

import os
import signal
from pathlib import Path

import pytest

from orchestrate.cluster.carried_error import error_as_text
from orchestrate.cluster.tune import RAISED, StatelessSearcher, StatelessTrial, run_trials
from orchestrate.config.sections import WorkersConfig
from qalof.errors import BadInputError, QalofError


class Numbers(StatelessSearcher):
    """Gives out the numbers 0 to 3, one trial each."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0
        self.found: dict[str, object] = {}

    def suggest(self, trial_id: str):
        if self.over or self.given == 4:
            return self.FINISHED
        self.given += 1
        return {"number": self.given - 1}

    def ended(self, trial_id: str, result) -> None:
        if result is not None:
            self.found[trial_id] = result["square"]


class Square(StatelessTrial):
    """Squares its number, unless the folder says what to do first; notes each beginning."""

    def begin(self) -> None:
        if (Path(self.config["folder"]) / "refuse").exists():
            raise BadInputError("a checkpoint must be whole: this one is not")

    def advance(self):
        folder, number = Path(self.config["folder"]), self.config["number"]
        with (folder / f"begun-{number}").open("a") as file:
            file.write("once\n")
        if number == 2 and (folder / "raise").exists():
            raise BadInputError("numbers must not be 2: got 2")
        if number == 2 and (folder / "die").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return {"square": number**2, "done": True}


def run(folder: Path, what: str, max_failures: int) -> Numbers:
    (folder / what).touch()
    searcher = Numbers()
    workers = WorkersConfig(count=1, max_failures=max_failures)
    run_trials(Square, searcher, {"folder": str(folder)}, workers, folder)
    return searcher


@pytest.mark.ray
@pytest.mark.parametrize(("what", "law", "beginnings"), [("raise", "must not be 2", 1), ("refuse", "must be whole", 0)])
def test_an_error_that_a_trial_raised_ends_the_search_as_it_was_raised_and_is_not_repeated(
    ray_session, tmp_path, what, law, beginnings
):
    with pytest.raises(BadInputError, match=law):
        run(tmp_path, what, max_failures=3)
    begun = tmp_path / "begun-2"
    assert (begun.read_text().count("once") if begun.exists() else 0) == beginnings


@pytest.mark.ray
def test_a_trial_whose_actor_is_lost_is_begun_again_max_failures_times(ray_session, tmp_path):
    with pytest.raises(QalofError, match="lost more than 1 times"):
        run(tmp_path, "die", max_failures=1)
    assert (tmp_path / "begun-2").read_text().count("once") == 2


def test_the_first_error_of_a_trial_ends_the_search():
    searcher = Numbers()
    assert isinstance(searcher.suggest("a"), dict)
    searcher.on_trial_complete("a", {RAISED: error_as_text(BadInputError("first")), "done": True})
    searcher.on_trial_complete("b", {RAISED: error_as_text(BadInputError("second")), "done": True})
    assert str(searcher.error) == "first"
    assert searcher.suggest("c") == searcher.FINISHED
    assert searcher.found == {}
