"""Decisions about failed work, from plain values: no Ray is started here."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.cluster.carried_error import error_as_text, error_of_text
from orchestrate.cluster.failure_policy import NODE_NOTICED, Decision, Failure, FailurePolicy
from qalof.errors import BadInputError, DiskError, NonFiniteLossError, QalofError

COUNTS = st.integers(min_value=0, max_value=50)


@given(COUNTS)
def test_lost_work_is_begun_again_exactly_max_failures_times(allowed):
    policy = FailurePolicy(allowed)
    for failure, again in ((Failure.LOST, Decision.REDO_ELSEWHERE), (Failure.CUT_OFF, Decision.RETRY)):
        decided = [policy.decide(failure, failures) for failures in range(1, allowed + 3)]
        assert decided == [again] * allowed + [Decision.GIVE_UP] * 2


@given(COUNTS, st.integers(min_value=1, max_value=60))
def test_what_would_come_back_is_never_tried_again(allowed, failures):
    policy = FailurePolicy(allowed)
    assert policy.decide(Failure.RAISED, failures) is Decision.GIVE_UP
    assert policy.decide(Failure.UNPLACEABLE, failures) is Decision.GIVE_UP


@given(COUNTS, st.integers(min_value=1, max_value=60), st.sampled_from(Failure))
def test_more_failures_never_make_the_policy_more_patient(allowed, failures, failure):
    if FailurePolicy(allowed).decide(failure, failures) is Decision.GIVE_UP:
        assert FailurePolicy(allowed).decide(failure, failures + 1) is Decision.GIVE_UP


@given(COUNTS, st.integers(min_value=1, max_value=60), st.floats(min_value=0, max_value=1e6))
def test_work_that_was_lost_twice_waits_until_the_loss_of_a_node_is_noticed_and_no_longer(allowed, failures, since):
    waited = FailurePolicy(allowed).pause(failures, since)
    assert waited == 0 or since + waited == pytest.approx(NODE_NOTICED)
    assert (waited == 0) == (failures == 1 or since >= NODE_NOTICED)


@pytest.mark.parametrize(("allowed", "failures"), [(-1, 1), (2, 0), (2, -3)])
def test_counts_that_cannot_be_are_refused(allowed, failures):
    with pytest.raises(ValueError, match="at least"):
        FailurePolicy(allowed).decide(Failure.LOST, failures)


def test_the_error_of_exhausted_work_names_the_limit_the_cause_and_the_way_on():
    told = str(FailurePolicy(3).exhausted("an actor", "its node died."))
    assert told.startswith("an actor was lost more than 3 times")
    assert "last because its node died; the same command" in told
    assert "workers.max_failures allows more" in told


def test_the_policy_imports_no_ray():
    code = "import sys, orchestrate.cluster.failure_policy; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0


class Unreadable(Exception):
    """Pickles, but is not read back: its __init__ wants two arguments."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize(
    "error",
    [
        BadInputError("widths must be whole: got 3.5"),
        NonFiniteLossError(3, "8", float("inf")),
        DiskError("there", "full"),
        KeyError("x"),
        MemoryError(),
    ],
)
def test_an_error_is_carried_as_it_was_raised(error):
    found = error_of_text(error_as_text(error))
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize("error", [Unreadable("a", "b"), type("Local", (Exception,), {})("a and b")])
def test_an_error_that_cannot_be_carried_keeps_its_name_and_message(error):
    found = error_of_text(error_as_text(error))
    assert type(found) is QalofError
    assert str(found) == f"{type(error).__name__}: a and b"
