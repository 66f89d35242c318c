"""A secret in an address is written nowhere: not in files, MLflow, standard output, errors, logs or reports."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.cli.app import main
from orchestrate.config.redaction import HIDDEN, conceal, redact
from orchestrate.runs import mlflow_store as tracking_place
from orchestrate.runs.mlflow_store import default_uri
from orchestrate.runs.mlflow_tracker import Tracker
from qalof.errors import BadInputError

SECRETS = ("hunter2word", "t0kenvalue", "fr4gment")
ADDRESS = "http://somebody:hunter2word@tracker.example:5000/base?token=t0kenvalue&other=t0kenvalue#fr4gment"
HERE = ["workers.count=1", "workers.in_process=true"]
TRAINED = [
    'task={name: squad-span, settings: {max_length: 96, stride: 16, train_split: "train[:8]"}}',
    "training={steps: 2, batch_size: 2, checkpoint_every: 1}", "objective={name: spnet}", "evaluation.limit=2",
]  # fmt: skip


@given(st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="@"), min_size=1))
def test_whatever_stands_before_the_host_is_left_out(word: str):
    hidden = redact(f"postgresql://somebody:{word}@host.example/base")
    assert hidden == f"postgresql://{HIDDEN}@host.example/base"
    assert redact(f"it said: http://me{word}@host.example/base is down") == (
        f"it said: http://{HIDDEN}@host.example/base is down"
    )


@pytest.mark.parametrize("harmless", ["http://host:5000", "sqlite:////a b/c@d.db", "no address: a@b?c#d", "runs", ""])
def test_what_holds_no_secret_stays_as_it_is(harmless: str):
    assert redact(harmless) == harmless


def test_what_is_redacted_stays_so():
    assert redact(redact(ADDRESS)) == redact(ADDRESS)
    assert not any(secret in redact(ADDRESS) for secret in SECRETS)


def test_parts_of_a_secret_are_concealed_as_they_stand_and_decoded():
    told = "no entry for p%40ss/w nor p@ss/w nor 4bcd"
    assert conceal(told, "http://me:p%40ss/w@host?key=4bcd") == "no entry for *** nor *** nor ***"


def written(folder: Path) -> bytes:
    """All that lies below a folder, files' names included."""
    return b"\n".join(str(p).encode() + p.read_bytes() for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def call(monkeypatch, capfd, caplog, empty_store, tmp_path):
    """Runs a command against a store that answers at ``ADDRESS``; gives all that it printed or logged."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    real = tracking_place._client
    monkeypatch.setattr(tracking_place, "_client", lambda uri: real(default_uri(tmp_path)))
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["qalof", *map(str, words), "--json"])
        main()
        told = capfd.readouterr()
        return told.out + told.err + caplog.text

    return run


def test_no_file_no_store_and_no_word_of_a_run_holds_the_secret_and_a_rerun_finds_it(call, random_model, tmp_path):
    command = ["train", *TRAINED, *HERE, f"model.source={random_model}", f"tracking.uri={ADDRESS}", "--output", "run"]
    first = call(*command)
    again = call(*command)
    assert "finished already" in again
    (tmp_path / "step").mkdir()
    swept = f"train={json.dumps({'model': {'source': random_model}, **_swept()})}"
    sweep = call(
        "sweep", swept, "space={adapters.rank: [2]}", "limit=2", *HERE, f"tracking.uri={ADDRESS}", "--output", "swept"
    )
    everything = written(tmp_path) + (first + again + sweep).encode()
    assert b"tracker.example:5000/base" in everything, "where the record is stays said"
    for secret in (*SECRETS, "somebody"):
        assert secret.encode() not in everything


def _swept() -> dict:
    data = {"max_length": 96, "stride": 16, "train_split": "train[:8]"}
    return {
        "task": {"name": "squad-span", "settings": data},
        "objective": {"name": "spnet"},
        "training": {"steps": 1, "batch_size": 2},
    }


def test_an_error_of_the_run_is_recorded_without_the_secret(empty_store, tmp_path):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    tracker = Tracker.open(tmp_path)
    tracker.uri = ADDRESS
    with pytest.raises(RuntimeError), tracker.parent("run") as run:
        raise RuntimeError(f"no answer from {ADDRESS} for hunter2word")
    assert not any(secret in tracker.client.get_run(run.run_id).data.tags["error"] for secret in SECRETS)


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://me:hunter2word@host/x",
        "hunter2word://me:hunter2word@",
        "[http://me:hunter2word@host]",
        "postgresql://me:hunter2word@127.0.0.1:1/db",
    ],
)
def test_no_refusal_says_the_secret(uri, monkeypatch, capfd, random_model, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = ["qalof", "train", *TRAINED, *HERE, f"model.source={random_model}", f"tracking.uri={uri}"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capfd.readouterr()
    assert "t0kenvalue" not in told.out + told.err
    assert "me:hunter2word" not in told.out + told.err
    assert ":hunter2word@" not in written(tmp_path).decode(errors="replace")


def test_a_command_goes_on_without_its_server_and_neither_it_nor_sync_says_the_secret(
    monkeypatch, capfd, caplog, random_model, empty_store, tmp_path
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    uri = "http://me:hunter2word@127.0.0.1:1/?token=t0kenvalue"

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["qalof", *words])
        main()
        told = capfd.readouterr()
        return told.out + told.err + caplog.text

    train = ["train", *TRAINED, *HERE, f"model.source={random_model}", f"tracking.uri={uri}", "--output", "run"]
    first = call(*train)
    assert "qalof sync" in first
    assert (tmp_path / "run" / "tracking_queue.jsonl").is_file()
    with pytest.raises(SystemExit) as refused:
        call("sync", "run")
    assert refused.value.code == 2, "the secret is not written down"
    again = call(*train)  # the next command on the run tries too
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    synced = call("sync", "run", "--uri", default_uri(tmp_path))
    assert " 0 left" in synced
    assert "nothing waits in run" in call("sync", "run")
    everything = written(tmp_path).decode(errors="replace") + first + again + synced
    for secret in ("hunter2word", "t0kenvalue"):
        assert secret not in everything
    runs = Tracker.open(tmp_path).client.search_runs(["1", "2"])
    (run,) = (each for each in runs if "mlflow.parentRunId" not in each.data.tags)
    assert run.info.status == "FINISHED"
    assert run.data.metrics


def test_an_address_whose_secret_was_left_out_is_refused_by_name(tmp_path):
    with pytest.raises(BadInputError, match="must be whole: got .*MLFLOW_TRACKING_PASSWORD"):
        Tracker.open(tmp_path, redact(ADDRESS))
