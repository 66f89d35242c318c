"""``kl`` in the commands that score bitmaps, in process."""

import pytest

from orchestrate.jobs.registry import JOBS
from orchestrate.jobs.run import execute
from qalof.errors import BadInputError


@pytest.fixture
def run(lm_checkpoint, empty_store, tmp_path):
    import shutil

    shutil.copy(empty_store, tmp_path / "mlflow.db")

    def command(name, **settings):
        given = {"checkpoint": str(lm_checkpoint), "limit": 3, "tracking": {"root": str(tmp_path)}}
        given["workers"] = {"count": 1, "in_process": True}
        return execute(name, JOBS[name].config.model_validate({**given, **settings}), tmp_path / name)

    return command


def test_evaluate_measures_kl_where_it_is_asked_for(run):
    rows = run("evaluate", bitmaps=[32, 8, 4], on_request=["kl"])["rows"]
    found = [row["metrics"]["kl"][0] for row in rows]
    assert found[0] == 0 < found[1] < found[2]
    low, high = rows[2]["metrics"]["kl"][1:]
    assert low < found[2] < high


def test_evaluate_measures_no_kl_otherwise(run):
    assert all("kl" not in row["metrics"] for row in run("evaluate", bitmaps=[8])["rows"])


@pytest.mark.parametrize("name", ["loss", "kll"])
def test_a_metric_that_is_not_on_request_is_refused_by_name(run, name):
    with pytest.raises(BadInputError, match=f"got '{name}', language-modeling has kl"):
        run("evaluate", bitmaps=[8], on_request=[name])


def test_sensitivity_ranks_by_kl(run):
    result = run("sensitivity", metric="kl", reduced=[4], unit="block")
    assert result["metric"] == "kl"
    drops = [row["kl_drop"] for row in result["ranking"]]
    assert drops == sorted(drops)


def test_search_optimizes_kl(run):
    result = run("search", strategy="random", max_evaluations=2, objectives=["min:kl", "min:average_bits"])
    assert all(row["kl"] > 0 for row in result["front"])


def test_training_cannot_keep_the_best_by_a_metric_on_request(lm_checkpoint):
    import qalof
    from orchestrate.config.train import TrainConfig
    from orchestrate.jobs.train.best_checkpoint import watched

    config = TrainConfig.model_validate(
        {"task": {"name": "language-modeling"}, "objective": {"name": "static"}, "keep_best": {"metric": "kl"}}
    )
    with pytest.raises(BadInputError, match="kl"):
        watched(config, qalof.load(lm_checkpoint), qalof.task_of(lm_checkpoint))
