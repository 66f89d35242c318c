"""Records that many open, in folders of any name, and experiments that were deleted."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrate.runs.mlflow_store import check_machines, database_of, default_uri
from orchestrate.runs.mlflow_tracker import Tracker
from qalof.errors import BadInputError

NASTY = [
    "job%2Fa",
    "a?b",
    "50% off",
    "%2525",
    "a#b",
    "it's",
    'q"u',
    "ü ß 漢",
    "a&b=c",
    "{a}",
    "[x]",
    "$HOME",
    "~",
    "a;b:c",
]
OPENED = """
import sys
from pathlib import Path
from orchestrate.runs.mlflow_tracker import Tracker
tracker = Tracker.open(Path(sys.argv[1]))
with tracker.parent(sys.argv[2]) as run:
    run.log_metrics({"loss": 1.0})
"""


@pytest.mark.parametrize("name", NASTY)
def test_a_record_lies_in_its_folder_whatever_that_is_called(name, empty_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = Path(name) / "runs"
    root.mkdir(parents=True)
    shutil.copy(empty_store, root / "mlflow.db")
    assert database_of(default_uri(root)) == (root / "mlflow.db").absolute()
    tracker = Tracker.open(root)
    note = tmp_path / "note.txt"
    note.write_text("kept")
    with tracker.parent("run") as run:
        run.artifact(note)
    assert (root / "mlartifacts" / run.run_id / "artifacts" / "note.txt").read_text() == "kept"
    assert {path.name for path in tmp_path.iterdir()} == {name, "note.txt"}, "no folder of another name beside it"


def test_a_record_behind_a_link_is_that_of_the_link(empty_store, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "real")
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    assert database_of(default_uri(tmp_path / "runs")) == tmp_path / "runs" / "mlflow.db"


@pytest.mark.parametrize(
    "uri", ["sqlite:////all/mlflow.db", "sqlite+pysqlite:////a%3Fb/mlflow.db", default_uri(Path("runs"))]
)
def test_an_sqlite_record_is_refused_where_several_machines_work_and_the_way_out_is_a_servers_uri(uri):
    check_machines(1, uri)
    with pytest.raises(BadInputError) as caught:
        check_machines(3, uri)
    (line,) = str(caught.value).splitlines()
    for said in ("tracking.uri", "cluster has 3", "mlflow.db", "`mlflow server ", "tracking.uri=http://127.0.0.1:5000"):
        assert said in line
    for server in ("http://127.0.0.1:5000", "https://me:secret@mlflow", "postgresql://host/base"):
        check_machines(3, server)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "postgresql://host/base", "sqlite://", "sqlite:///"])
def test_a_server_has_no_file(uri):
    assert database_of(uri) is None


@pytest.mark.slow
def test_first_runs_at_the_same_time_share_a_fresh_record(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPENED, str(tmp_path / "fresh"), f"run {number}"],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for number in range(3)
    ]  # fmt: skip
    said = [each.communicate(timeout=300)[1] for each in started]
    assert [each.returncode for each in started] == [0, 0, 0], said
    tracker = Tracker.open(tmp_path / "fresh")
    assert len(tracker.client.search_runs([tracker.experiment_id])) == 3


def test_a_deleted_experiment_gets_its_own_advice(empty_store, tmp_path):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    tracker = Tracker.open(tmp_path, experiment="mine")
    tracker.client.delete_experiment(tracker.experiment_id)
    with pytest.raises(BadInputError) as refused:
        Tracker.open(tmp_path, experiment="mine")
    message = str(refused.value)
    assert f"mlflow experiments restore --experiment-id {tracker.experiment_id}" in message
    assert "tracking.experiment" in message
    assert "server" not in message
    tracker.client.restore_experiment(tracker.experiment_id)
    assert Tracker.open(tmp_path, experiment="mine").experiment_id == tracker.experiment_id
