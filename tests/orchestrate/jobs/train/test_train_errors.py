"""An error that the work of a training raises is met once, whichever worker raised it."""

import pytest

from orchestrate.cluster.carried_error import error_of_text
from orchestrate.jobs.train import worker as train_worker
from orchestrate.jobs.train.storage import ERROR, leave_error, prepare
from qalof.errors import BadInputError, DiskError, NonFiniteLossError


@pytest.fixture
def begun(monkeypatch):
    """The beginnings of a training whose every beginning raises the last of the errors that are set."""
    seen: list[Exception] = []
    errors: list[Exception] = []

    def fail(settings):
        seen.append(errors[-1])
        raise errors[-1]

    monkeypatch.setattr(train_worker, "_train", fail)
    return errors, seen


@pytest.mark.parametrize("error", [BadInputError("rows must be texts: got 3"), DiskError("there", "full")])
def test_an_error_of_ours_is_raised_once_and_returned_to_whoever_is_started_next(begun, tmp_path, error):
    errors, seen = begun
    errors.append(error)
    with pytest.raises(type(error), match=str(error)[:20]):
        train_worker.work({"storage": str(tmp_path)})
    found = [error_of_text(train_worker.work({"storage": str(tmp_path)})["error"]) for _ in range(2)]
    assert [(type(each), str(each)) for each in found] == [(type(error), str(error))] * 2
    assert seen == [error]


def test_a_loss_that_is_not_finite_is_returned_since_no_other_worker_waits(begun, tmp_path):
    errors, _ = begun
    errors.append(NonFiniteLossError(3, "8", float("nan")))
    found = error_of_text(train_worker.work({"storage": str(tmp_path)})["error"])
    assert isinstance(found, NonFiniteLossError)
    assert (found.step, found.bitmap) == (3, "8")


def test_another_error_may_be_a_lost_neighbor_and_is_begun_again(begun, tmp_path):
    errors, seen = begun
    errors.append(RuntimeError("Connection closed by peer"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="closed by peer"):
            train_worker.work({"storage": str(tmp_path)})
    assert len(seen) == 2


def test_a_new_command_forgets_the_error_of_the_last(tmp_path):
    leave_error(tmp_path, "text")
    assert (tmp_path / ERROR).is_file()
    prepare(tmp_path)
    assert not (tmp_path / ERROR).exists()
