"""What Tune is given out and takes back, without Tune."""

import search
from orchestrate.jobs.search.on_tune import StudySearcher


def searcher(random_model):
    import qalof
    from qalof.model.pretrained import BaseModel

    model = qalof.build(BaseModel(random_model, qalof.task("squad-span", max_length=96, stride=16).head))
    space = search.BitmapSpace.of(model, weight=(4, 8))
    study = search.Study(space, ("max:f1", "min:weight_bytes"), "random", max_evaluations=8)
    return StudySearcher(study, lambda bitmap, evaluation: None)


def test_a_trial_that_failed_for_good_ends_the_search_rather_than_being_given_out_again(random_model):
    made = searcher(random_model)
    assert isinstance(made.suggest("first"), dict)
    made.on_trial_complete("first", None, error=True)
    assert made.suggest("second") == "FINISHED"


def test_trials_at_the_same_time_get_different_bitmaps(random_model):
    made = searcher(random_model)
    assert made.suggest("first") != made.suggest("second")
