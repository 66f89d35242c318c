"""What Tune is given out and takes back, without Tune."""

import json

import pytest

import search
from orchestrate.cluster.failure_policy import FailurePolicy
from orchestrate.jobs.search.on_tune import BitmapTrial, StudySearcher
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from search.failure import TooManyFailures


def searcher(random_model, strategy="random", **options):
    import qalof
    from qalof.model.pretrained import BaseModel

    model = qalof.build(BaseModel(random_model, qalof.task("squad-span", max_length=96, stride=16).head))
    space = search.BitmapSpace.of(model, weight=(4, 8))
    study = search.Study(space, ("max:f1", "min:weight_bytes"), strategy, max_evaluations=8, **options)
    made = StudySearcher(study, lambda bitmap, evaluation: None)
    made.policy = FailurePolicy(0)
    return made


def test_a_bitmap_that_lost_too_many_actors_has_failed_and_the_search_goes_on_with_another(random_model):
    made = searcher(random_model)
    first = made.suggest("first")
    made.on_trial_complete("first", None, error=True)
    (failed,) = made.study.result().failures
    assert {"bitmap": failed.bitmap.to_json()} == first
    assert "lost" in failed.failure
    second = made.suggest("second")
    assert isinstance(second, dict)
    assert second != first


def test_a_lost_measurement_ends_the_search(random_model):
    made = searcher(random_model, "guided")
    assert "measurement" in made.suggest("first")
    made.on_trial_complete("first", None, error=True)
    assert made.suggest("second") == "FINISHED"


def test_failures_in_a_row_end_the_search_with_an_error(random_model):
    made = searcher(random_model, max_failures_in_a_row=2)
    for name in ("first", "second"):
        assert isinstance(made.suggest(name), dict)
        made.on_trial_complete(name, None, error=True)
    assert made.suggest("third") == "FINISHED"
    assert isinstance(made.error, TooManyFailures)


class Unsteady:
    """A scorer that raises."""

    def __init__(self, error):
        self.error = error

    def score(self, item):
        raise self.error


def advance(error):
    trial = BitmapTrial.__new__(BitmapTrial)
    trial._scorer, trial.config = Unsteady(error), {"bitmap": {"a": "4"}, "limit": None, "metrics": []}
    return trial.advance()


def test_a_trial_that_raises_hands_back_a_failed_evaluation_with_its_reason():
    found = advance(ZeroDivisionError("no scale"))
    assert Evaluation.from_json(json.loads(found["found"])).failure == "ZeroDivisionError: no scale"


@pytest.mark.parametrize("error", [BadInputError("not UTF-8"), FileNotFoundError("gone")], ids=repr)
def test_a_trial_raises_what_would_meet_every_bitmap_alike(error):
    with pytest.raises(type(error)):
        advance(error)


def test_trials_at_the_same_time_get_different_bitmaps(random_model):
    made = searcher(random_model)
    assert made.suggest("first") != made.suggest("second")
