"""A store that fails loses nothing: what waits outlives the process, and is written once and in order."""

import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrate.runs import mlflow_tracker
from orchestrate.runs.layout import TRACKING_QUEUE
from orchestrate.runs.mlflow_queue import Queue
from orchestrate.runs.mlflow_store import Place, default_uri, ui_command
from orchestrate.runs.mlflow_sync import sync
from orchestrate.runs.mlflow_tracker import Resumed, Tracker
from orchestrate.runs.mlflow_writes import Writer
from qalof.errors import BadInputError

METHODS = ("create_run", "log_batch", "set_terminated", "log_artifact", "search_runs", "update_run", "log_inputs")


class Failing:
    """A client whose calls fail by ``plan``: "before" nothing is done, "after" it is done and the answer is lost."""

    def __init__(self, client, plan):
        self.client, self.plan, self.calls = client, plan, 0

    def __getattr__(self, name):
        real = getattr(self.client, name)
        if name not in METHODS:
            return real

        def call(*args, **kwargs):
            when = self.plan(self.calls, name)
            self.calls += 1
            if when == "before":
                raise ConnectionError("server is down")
            answer = real(*args, **kwargs)
            if when == "after":
                raise ConnectionError("the answer is lost")
            return answer

        return call


@pytest.fixture
def store(empty_store, tmp_path) -> Tracker:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Tracker.open(tmp_path)


def failing(store: Tracker, plan) -> Tracker:
    return Tracker(store.place, Writer(Failing(store.client, plan), store.experiment_id))


def work(tracker: Tracker, folder: Path, resume: Resumed | None = None, key: str = "k" * 32) -> None:
    """A small search: a curve, two trials, a file."""
    folder.mkdir(exist_ok=True)
    (folder / "front.json").write_text("{}")
    with tracker.parent("search", {"steps": 3}, {"command": "search"}, resume, folder, key=key) as run:
        for step in range(3):
            run.log_metrics({"loss": 1.0 / (step + 1)}, step)
        for bits in (4, 8):
            run.child(f"trial {bits}", {"bits": bits}, {"f1": 10.0 * bits})
        run.artifact(folder / "front.json")


def record(store: Tracker) -> list:
    """All runs as a reader sees them, without ids and times."""
    rows = []
    for run in store.client.search_runs([store.experiment_id], order_by=["attributes.start_time"]):
        history = {
            name: [(p.step, p.value) for p in store.client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        files = [file.path for file in store.client.list_artifacts(run.info.run_id)]
        nested = "mlflow.parentRunId" in run.data.tags
        rows.append((run.info.run_name, run.info.status, nested, run.data.params, history, files))
    return sorted(rows, key=str)


@pytest.fixture
def undisturbed(store, empty_store, tmp_path) -> list:
    (tmp_path / "other").mkdir()
    shutil.copy(empty_store, tmp_path / "other" / "mlflow.db")
    other = Tracker.open(tmp_path / "other")
    work(other, tmp_path / "undisturbed")
    return record(other)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_whatever_single_request_fails_the_record_is_that_of_an_undisturbed_run(
    when, store, undisturbed, tmp_path, monkeypatch
):
    monkeypatch.setattr(mlflow_tracker, "RETRY_EVERY", 0.0)
    asked = Failing(store.client, lambda call, name: None)
    work(Tracker(store.place, Writer(asked, store.experiment_id)), tmp_path / "counted")
    assert asked.calls > 10
    for number in range(asked.calls):
        for run in store.client.search_runs([store.experiment_id]):
            store.client.delete_run(run.info.run_id)
        tracker = failing(store, lambda call, name, number=number: when if call == number else None)
        work(tracker, tmp_path / "run", key=f"{number}".ljust(32, "x"))
        assert record(store) == undisturbed, f"request {number} failed {when}"
        assert not (tmp_path / "run" / TRACKING_QUEUE).exists()


@pytest.mark.parametrize(("first", "when"), [(0, "before"), (2, "after"), (8, "after")])
def test_what_is_left_at_the_end_is_written_once_by_sync_and_by_nothing_after_it(
    first, when, store, undisturbed, tmp_path
):
    folder = tmp_path / "run"
    work(failing(store, lambda call, name: when if call >= first else None), folder)
    assert record(store) != undisturbed
    (folder / "tracking.json").write_text(json.dumps({"run": None, "key": "k" * 32, "uri": default_uri(tmp_path)}))
    before = [len(Queue(folder / TRACKING_QUEUE)), 0]
    (synced,) = sync(tmp_path)
    assert [synced.written, synced.left] == before
    assert record(store) == undisturbed
    assert json.loads((folder / "tracking.json").read_text())["run"]
    assert sync(tmp_path) == []
    assert record(store) == undisturbed


def test_the_next_command_on_a_run_does_first_what_its_interrupted_one_has_left(store, undisturbed, tmp_path):
    folder = tmp_path / "run"
    tracker = failing(store, lambda call, name: "before" if call >= 6 else None)
    folder.mkdir()

    def interrupted() -> None:
        with tracker.parent("search", {"steps": 3}, folder=folder, key="k" * 32) as run:
            run.log_metrics({"loss": 1.0}, 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with Tracker.open(tmp_path).parent("search", {"steps": 9}, resume=Resumed(None, "k" * 32), folder=folder) as run:
        run.log_metrics({"loss": 0.5}, 1)
    (only,) = record(store)
    assert only[1:5] == ("FINISHED", False, {"steps": "3"}, {"loss": [(0, 1.0), (1, 0.5)]})


def test_a_queue_that_a_kill_has_torn_loses_the_torn_write_alone(tmp_path):
    queue = Queue(tmp_path / "queue.jsonl")
    queue.add([{"do": "end", "run": str(number)} for number in range(4)])
    queue.drop_first()
    with (tmp_path / "queue.jsonl").open("a") as file:
        file.write('{"do": "e')
    again = Queue(tmp_path / "queue.jsonl")
    again.add([{"do": "end", "run": "last"}])
    assert (len(again), again.inherited) == (4, 3)
    order = []
    while (write := Queue(tmp_path / "queue.jsonl").first()) is not None:
        order.append(write["run"])
        again.drop_first()
    assert order == ["1", "2", "3", "last"]
    assert not (tmp_path / "queue.jsonl").exists()


@contextmanager
def server(status: int, seconds: float = 0.0):
    """A server that answers every request with ``status``, after ``seconds``."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            time.sleep(seconds)
            self.send_response(status)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://me:hunter2word@127.0.0.1:{running.server_address[1]}/?token=t0kenvalue"
    finally:
        running.shutdown()
        running.server_close()


@pytest.mark.parametrize("kind", ["unreachable", "errors", "slow"])
def test_a_server_that_is_away_slow_or_broken_stops_no_run_and_is_told_later(
    kind, store, undisturbed, tmp_path, monkeypatch, caplog, capfd
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(mlflow_tracker, "CLOSING", 1.0)
    with server(503, 1.5 if kind == "slow" else 0.0) as uri:
        asked = "http://me:hunter2word@127.0.0.1:9/" if kind == "unreachable" else uri
        tracker = Tracker.open(tmp_path, asked)
        began = time.monotonic()
        work(tracker, tmp_path / "run")
        assert time.monotonic() - began < 10
    assert (tmp_path / "run" / TRACKING_QUEUE).is_file()
    said = caplog.text + "".join(capfd.readouterr()) + (tmp_path / "run" / TRACKING_QUEUE).read_text()
    assert "qalof sync" in said
    assert "hunter2word" not in said
    assert "t0kenvalue" not in said
    sync(tmp_path / "run", default_uri(tmp_path))
    assert record(store) == undisturbed


def test_a_server_that_refuses_for_good_is_an_error_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with server(404) as uri, pytest.raises(BadInputError, match="must be reachable") as refused:
        Tracker.open(tmp_path, uri)
    assert "hunter2word" not in str(refused.value)


def test_a_store_whose_secret_is_not_written_down_is_asked_for(tmp_path):
    (tmp_path / TRACKING_QUEUE).write_text('{"do": "end", "run": "x", "status": "FINISHED", "ended": 1}\n')
    (tmp_path / "tracking.json").write_text('{"uri": "http://***@host:5000", "key": "x", "run": null}')
    with pytest.raises(BadInputError, match="give --uri"):
        sync(tmp_path)


def test_writing_takes_no_time_from_the_work_however_slow_the_server(store, tmp_path, monkeypatch):
    monkeypatch.setattr(Place, "is_server", True)
    monkeypatch.setattr(mlflow_tracker, "CLOSING", 0.0)

    def slowly(call, name):
        time.sleep(0.5)

    began = time.monotonic()
    with failing(store, slowly).parent("search", folder=tmp_path) as run:
        for trial in range(200):
            run.child(f"trial {trial}", {"bits": {f"h.{i}": 4 for i in range(210)}}, {"f1": 1.0})
    took = time.monotonic() - began
    assert took < 3, "200 trials of 210 sites are noted, and the end waits for one request at most"


@pytest.mark.slow
def test_a_server_that_is_killed_in_the_middle_and_started_again_has_the_record_of_an_undisturbed_run(
    store, undisturbed, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(mlflow_tracker, "RETRY_EVERY", 1.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    servers = [started(tmp_path, port)]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "front.json").write_text("{}")
    try:
        tracker = Tracker.open(tmp_path, f"http://127.0.0.1:{port}")
        with tracker.parent("search", {"steps": 3}, {"command": "search"}, None, folder) as run:
            run.log_metrics({"loss": 1.0}, 0)
            run.child("trial 4", {"bits": 4}, {"f1": 40.0})
            time.sleep(0.05)  # a request is under way
            killed(servers[0])
            run.log_metrics({"loss": 1 / 2}, 1)
            run.child("trial 8", {"bits": 8}, {"f1": 80.0})
            servers.append(started(tmp_path, port))
            run.log_metrics({"loss": 1 / 3}, 2)
            run.artifact(folder / "front.json")
    finally:
        for each in servers:
            killed(each)
    assert not (folder / TRACKING_QUEUE).exists()
    assert record(store) == undisturbed
    assert capfd.readouterr().out == "", "standard output is for results"


def started(root: Path, port: int) -> subprocess.Popen:
    """Start MLflow's server on the record in ``root``, and wait until it answers."""
    with (root / "log").open("a") as log:
        process = subprocess.Popen(ui_command(root, port), stdout=log, stderr=log, start_new_session=True)
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
            return process
        except OSError:
            assert process.poll() is None, (root / "log").read_text()
            time.sleep(0.5)
    raise AssertionError((root / "log").read_text())


def killed(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
