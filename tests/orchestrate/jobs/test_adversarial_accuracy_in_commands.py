"""Accuracy under attack in the commands that score bitmaps, in process and on actors."""

import shutil

import pytest

import qalof
import search
from orchestrate.cluster.evaluation_pool import EvaluationPool
from orchestrate.config.sections import WorkersConfig
from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.run import execute
from qalof.attacks.methods.textfooler import TextFoolerSettings
from qalof.attacks.robustness.adversarial_accuracy import AdversarialAccuracySettings
from qalof.errors import BadInputError

ATTACK = {"most_queries": 12, "max_length": 64, "least_cosine": -1.0, "part_of_speech": "off", "least_similarity": 0.0}
ROBUSTNESS = {"texts": 3, "references": [4], "method": {"name": "textfooler", "settings": ATTACK}}
OBJECTIVES = ["max:accuracy", "max:adversarial_accuracy", "min:average_bits"]


@pytest.fixture
def run(review_checkpoint, empty_store, tmp_path):
    shutil.copy(empty_store, tmp_path / "mlflow.db")

    def command(name, checkpoint=review_checkpoint, **settings):
        given = {"checkpoint": str(checkpoint), "limit": 8, "tracking": {"root": str(tmp_path)}}
        given["workers"] = {"count": 1, "in_process": True}
        return execute(name, JOBS[name].config.model_validate({**given, **settings}), tmp_path / name)

    return command


@pytest.mark.slow
def test_the_command_and_the_library_search_alike(run, review_checkpoint, tmp_path):
    settings = {"strategy": "random", "max_evaluations": 4, "objectives": OBJECTIVES, "space": {"group": "block"}}
    settings |= {"robustness": ROBUSTNESS, "limits": {"adversarial_accuracy": 0.1}}
    there = run("search", **settings)
    robustness = AdversarialAccuracySettings(3, TextFoolerSettings(**ATTACK), (4,))
    model, task = qalof.load(review_checkpoint), qalof.task_of(review_checkpoint)
    here = search.run(
        search.BitmapSpace.of(model, group="block"),
        search.LocalEvaluator(model, task, 8, robustness=robustness),
        OBJECTIVES, "random", 4, {"adversarial_accuracy": 0.1},
    )  # fmt: skip
    assert there["front"] == here.front.to_dict("records")
    assert len(there["breaking"]) == len(here.breaking)
    again = run("search", **settings)
    assert again["front"] == there["front"]


def test_every_actor_of_a_pool_gives_the_same_number(review_checkpoint):
    robustness = AdversarialAccuracySettings(3, TextFoolerSettings(**ATTACK), (4,))
    model, task = qalof.load(review_checkpoint), qalof.task_of(review_checkpoint)
    bitmaps = search.BitmapSpace.of(model, weight=(3, 8)).uniform()
    metrics = ("adversarial_accuracy",)
    pool = EvaluationPool(
        review_checkpoint, model.sites, 8, WorkersConfig(count=1, in_process=True), metrics=metrics,
        robustness=robustness,
    )  # fmt: skip
    local = search.LocalEvaluator(model, task, 8, metrics, robustness)
    found = pool.evaluate(bitmaps)
    assert [each.per_example for each in found] == [each.per_example for each in local.evaluate(bitmaps)]
    assert all(len(each.per_example["adversarial_accuracy"]) == 3 and each.examples == 8 for each in found)
    plain = EvaluationPool(review_checkpoint, model.sites, 8, WorkersConfig(count=1, in_process=True))
    assert pool.fingerprint() != plain.fingerprint()


@pytest.mark.ray
def test_two_actors_find_the_front_that_this_process_finds(ray_session, run, tmp_path):
    settings = {"strategy": "random", "max_evaluations": 4, "objectives": OBJECTIVES, "space": {"group": "block"}}
    settings |= {"robustness": ROBUSTNESS}
    here = run("search", **settings)
    (tmp_path / "search").rename(tmp_path / "here")
    there = run("search", workers={"count": 2, "threads": 1}, **settings)
    assert there["front"] == here["front"]
    assert there["breaking"] == here["breaking"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limits": {"adversarial_accuracy": 60}}, r"must be a share between 0 and 1: got 60; 0\.6 is 60 %"),
        ({"limits": {"f1": 0.5}}, "must name a cost or a metric that is measured: got f1"),
        ({"robustness": {"method": {"name": "textfooler", "settings": {"synonyms": "nowhere.tsv"}}}}, "does not exist"),
        ({"robustness": {"random_precision": {"bitmaps": [33]}}}, "33"),
    ],
    ids=["limit", "metric", "list", "defense"],
)
def test_bad_input_is_one_line(run, settings, message):
    with pytest.raises((BadInputError, ValueError), match=message):
        run("search", objectives=OBJECTIVES, **settings)


def test_a_task_without_labels_has_none(run, lm_checkpoint):
    with pytest.raises(BadInputError, match="got max:adversarial_accuracy") as caught:
        run("search", lm_checkpoint, objectives=["min:loss", "max:adversarial_accuracy"])
    assert "\n" not in str(caught.value)


def test_evaluate_measures_it_where_it_is_asked_for(run):
    row = run("evaluate", bitmaps=[8], on_request=["adversarial_accuracy"], limit=2)["rows"][0]
    estimate, low, high = row["metrics"]["adversarial_accuracy"]
    assert 0 <= low <= estimate <= high <= 100
