import math
import shutil
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrate.runs.environment import describe, git_state
from orchestrate.runs.mlflow_store import default_uri, ui_command
from orchestrate.runs.mlflow_tracker import Resumed, Tracker
from orchestrate.runs.mlflow_values import MAX_NAME, MAX_PARAM, check_uri, flatten, split_finite, texts, valid_name
from qalof.errors import BadInputError


@pytest.fixture
def tracker(empty_store: Path, tmp_path: Path) -> Tracker:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Tracker.open(tmp_path)


def test_nested_settings_become_dotted_parameters_with_bare_numbers():
    config = {"bits": {"h.0.attn.c_attn": 4}, "rate": 0.001, "name": "sp", "widths": [2, 4], "on": True, "off": None}
    assert flatten(config) == {
        "bits.h.0.attn.c_attn": "4", "rate": "0.001", "name": "sp", "widths": "[2, 4]", "on": "true", "off": "null",
    }  # fmt: skip


def test_long_values_are_cut_and_empty_settings_kept():
    flat = flatten({"text": "x" * 9000, "limits": {}})
    assert len(flat["text"]) == MAX_PARAM
    assert flat["text"].endswith("...")
    assert flat["limits"] == "{}"
    assert len(texts({"error": "y" * 9000})["error"]) == 8000


@settings(deadline=None)  # the first example imports MLflow
@given(st.text(max_size=300))
def test_any_text_becomes_a_name_that_mlflow_accepts(text: str):
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    name = valid_name(text)
    assert 0 < len(name) <= MAX_NAME
    _validate_metric_name(name)
    _validate_param_name(name)


@pytest.mark.parametrize("name", ["f1", "h.0.attn.c_attn", "loss/4 bit", "a-b_c"])
def test_a_valid_name_is_left_as_it_is(name: str):
    assert valid_name(name) == name


def test_values_that_are_not_finite_numbers_are_set_apart():
    finite, other = split_finite({"f1": 90, "loss": math.nan, "peak": -math.inf, "note": None})
    assert finite == {"f1": 90.0}
    assert other == {"loss": "nan", "peak": "-inf", "note": "None"}


@pytest.mark.parametrize("uri", ["runs/mlruns", "file:///tmp/mlruns", "./mlruns", "ftp://there"])
def test_a_store_of_plain_files_is_refused(uri: str):
    with pytest.raises(BadInputError, match="tracking URI must begin with"):
        check_uri(uri)


def test_a_run_holds_its_parameters_curves_tags_and_files(tracker: Tracker, tmp_path: Path):
    note = tmp_path / "note.txt"
    note.write_text("kept")
    with tracker.parent("train", {"steps": 3, "model": {"layers": 4}}, {"kind": "sp"}) as run:
        run.log_metrics({"loss": 2.0}, step=1)
        run.log_series([(2, {"loss": 1.5, "f1": 80}), (3, {"loss": 1.0})])
        run.artifact(note, "notes")
    found = tracker.client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"steps": "3", "model.layers": "4"}
    assert found.data.tags["kind"] == "sp"
    assert [(p.step, p.value) for p in tracker.client.get_metric_history(run.run_id, "loss")] == [
        (1, 2),
        (2, 1.5),
        (3, 1),
    ]
    assert (tmp_path / "mlartifacts" / run.run_id / "artifacts" / "notes" / "note.txt").read_text() == "kept"


def test_more_than_one_batch_of_values_and_parameters_arrives_whole(tracker: Tracker):
    with tracker.parent("train", {f"p{index}": index for index in range(250)}) as run:
        run.log_series([(step, {"loss": float(step)}) for step in range(1700)])
    assert len(tracker.client.get_run(run.run_id).data.params) == 250
    assert len(tracker.client.get_metric_history(run.run_id, "loss")) == 1700


def test_children_are_nested_and_finished(tracker: Tracker):
    with tracker.parent("search") as run:
        for bits in (2, 4, 8):
            run.child(f"trial {bits}", {"bits": {"h.0": bits}}, {"f1": 10.0 * bits})
    children = tracker.client.search_runs([tracker.experiment_id], f"tags.`mlflow.parentRunId` = '{run.run_id}'")
    assert sorted((int(c.data.params["bits.h.0"]), c.data.metrics["f1"]) for c in children) == [
        (2, 20),
        (4, 40),
        (8, 80),
    ]
    assert {child.info.status for child in children} == {"FINISHED"}


def test_a_value_that_is_not_finite_is_noted_and_the_rest_written(tracker: Tracker):
    with tracker.parent("train") as run:
        run.log_series([(1, {"loss": 1.0, "f1": 5}), (2, {"loss": math.nan, "f1": 6}), (3, {"loss": math.inf})])
        child = run.child("trial", metrics={"f1": math.nan, "bits": 4})
    found = tracker.client.get_run(run.run_id).data
    assert found.metrics == {"loss": 1.0, "f1": 6.0}
    assert found.tags["not_finite.loss"] == "nan at step 2"
    assert tracker.client.get_run(tracker.known_id(child)).data.tags["not_finite.f1"] == "nan"


@pytest.mark.parametrize(("error", "status"), [(ValueError("bad"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_an_exception_ends_the_run_and_passes_through(tracker: Tracker, error: BaseException, status: str):
    with pytest.raises(type(error)), tracker.parent("train") as run:
        raise error
    assert tracker.client.get_run(run.run_id).info.status == status


def test_an_interrupted_run_is_gone_on_with_and_an_unknown_one_made_anew(tracker: Tracker):
    with pytest.raises(KeyboardInterrupt), tracker.parent("train", {"steps": 3}) as first:
        raise KeyboardInterrupt
    with tracker.parent("train", {"steps": 9}, resume=Resumed(first.run_id)) as second:
        assert tracker.client.get_run(first.run_id).info.status == "RUNNING"
    assert second.run_id == first.run_id
    assert tracker.client.get_run(first.run_id).data.params == {"steps": "3"}
    with tracker.parent("train", resume=Resumed("0" * 32)) as third:
        pass
    assert third.run_id != first.run_id


def test_a_store_lost_in_the_middle_loses_nothing(tracker: Tracker, monkeypatch: pytest.MonkeyPatch, caplog):
    def down(*_: object, **__: object) -> None:
        raise ConnectionError("server is down")

    with tracker.parent("search") as run:
        with monkeypatch.context() as patch:
            for name in ("log_batch", "create_run", "set_terminated"):
                patch.setattr(tracker.client, name, down)
            run.log_metrics({"loss": 1.0}, step=7)
            run.child("trial", {"bits": 4}, {"f1": 50})
        assert caplog.text.count("tried again") == 1
    assert [p.step for p in tracker.client.get_metric_history(run.run_id, "loss")] == [7]
    (child,) = tracker.client.search_runs([tracker.experiment_id], f"tags.`mlflow.parentRunId` = '{run.run_id}'")
    assert (child.data.params, child.data.metrics, child.info.status) == ({"bits": "4"}, {"f1": 50.0}, "FINISHED")
    assert tracker.client.get_run(run.run_id).info.status == "FINISHED"


def test_a_store_lost_to_the_end_does_not_fail_the_run(tracker: Tracker, monkeypatch: pytest.MonkeyPatch, caplog):
    def down(*_: object, **__: object) -> None:
        raise ConnectionError("server is down")

    with tracker.parent("search") as run:
        for name in ("log_batch", "set_terminated"):
            monkeypatch.setattr(tracker.client, name, down)
        run.log_metrics({"loss": 1.0})
    assert "2 writes wait" in caplog.text


def test_a_refused_write_does_not_hold_up_the_others(tracker: Tracker, tmp_path: Path, caplog):
    with tracker.parent("train") as run:
        run.artifact(tmp_path / "missing.png")
        run.log_metrics({"loss": 1.0})
    assert "left out" in caplog.text
    assert tracker.client.get_run(run.run_id).data.metrics == {"loss": 1.0}


def test_mlflow_prints_no_address_where_a_result_goes(capsys):
    from orchestrate.runs import mlflow_store

    client = mlflow_store._client("http://127.0.0.1:9")
    client._tracking_client._log_url("a" * 32)  # otherwise it would ask the server, which is not there
    assert capsys.readouterr().out == ""


def test_a_file_that_is_no_data_base_is_bad_input(tmp_path: Path):
    (tmp_path / "mlflow.db").write_text("not a data base, whatever its name says" * 30)
    with pytest.raises(BadInputError, match="tracking store must be reachable"):
        Tracker.open(tmp_path)


def test_the_record_can_be_written_to_while_the_ui_would_read_it(tracker: Tracker, tmp_path: Path):
    again = Tracker.open(tmp_path)
    with tracker.parent("one") as one, again.parent("two") as two:
        one.log_metrics({"f1": 1})
        two.log_metrics({"f1": 2})
    assert again.client.get_run(one.run_id).data.metrics == {"f1": 1}


def test_the_ui_is_started_on_this_machine_alone_with_one_worker(tmp_path: Path):
    line = " ".join(ui_command(tmp_path, 5055))
    assert default_uri(tmp_path) in line
    assert line.startswith("env MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false")
    assert line.endswith("--host 127.0.0.1 --port 5055 --workers 1")


def test_the_environment_names_versions_and_hardware_but_nobody(tmp_path: Path):
    import getpass
    import json

    found = describe()
    assert found["packages"]["ray"]
    assert found["memory_bytes"] > 0
    assert str(Path.home()) not in json.dumps(found)
    assert socket.gethostname() not in json.dumps(found).split('"')
    assert getpass.getuser() not in json.dumps(found).split('"')
    assert git_state(tmp_path) is None


def test_mlflows_own_asynchronous_logging_loses_what_the_store_refused_once():
    """Why the writes that wait are our own list; should this fail one day, MLflow's would do."""
    from mlflow.utils.async_logging.async_logging_queue import AsyncLoggingQueue

    asked = []

    def log(run_id, metrics, params, tags):
        asked.append(run_id)
        if len(asked) == 1:
            raise ConnectionError("server is away")

    queue = AsyncLoggingQueue(log)
    queue.activate()
    with pytest.raises(Exception, match="server is away"):
        queue.log_batch_async("first", [], [], []).wait()
    queue.log_batch_async("second", [], [], []).wait()
    queue.shut_down_async_logging()
    assert asked == ["first", "second"], "the first is not asked for again"
