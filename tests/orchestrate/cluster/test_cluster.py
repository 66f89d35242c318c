import os
import subprocess
import sys
import threading
import time
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.cluster.admission import cpu_share
from orchestrate.cluster.connection import (
    Cluster,
    check_address,
    connect,
    find_token,
    logical_cpus,
    probe,
    threads_per_worker,
    worker_environment,
)
from qalof.errors import BadInputError

ROOT = Path(__file__).parents[3]


@given(st.integers(1, 64), st.integers(1, 128))
def test_a_local_instance_runs_all_workers_and_one_thing_more(workers: int, cores: int):
    tickets = logical_cpus(workers, cores)
    assert tickets >= max(workers + 1, cores)
    assert cpu_share(workers, [tickets]) == 1.0


@given(st.integers(0, 64), st.integers(1, 128))
def test_threads_never_exceed_the_cores_unless_each_worker_has_one(workers: int, cores: int):
    threads = threads_per_worker(workers, cores)
    assert threads >= 1
    assert threads == 1 or threads * workers <= cores


def test_workers_get_their_threads_and_stay_offline_with_the_driver(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    settings = worker_environment(2, cores=8)
    assert settings["OMP_NUM_THREADS"] == "4"
    assert settings["TOKENIZERS_PARALLELISM"] == "false"
    assert settings["HF_HUB_OFFLINE"] == "1"
    assert "HF_DATASETS_OFFLINE" not in settings


def test_the_address_of_a_head_node_is_taken_apart():
    assert check_address("10.0.0.5:6379") == ("10.0.0.5", 6379)
    assert check_address("[::1]:6379") == ("::1", 6379)
    assert check_address("head.local:80") == ("head.local", 80)


MALFORMED = [
    ("http://127.0.0.1:8265", "ray job submit"),
    ("ray://127.0.0.1:10001", "HOST:6379"),
    ("127.0.0.1", "10.0.0.5:6379"),
    ("127.0.0.1:70000", "10.0.0.5:6379"),
    ("", "10.0.0.5:6379"),
]


@pytest.mark.parametrize(("address", "hint"), MALFORMED)
def test_an_address_from_the_environment_is_named_where_it_is_the_cause(address, hint, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address or "nowhere")
    with pytest.raises(BadInputError, match="RAY_ADDRESS must name a cluster .* or be unset") as caught, connect():
        pass
    assert hint in str(caught.value)
    with pytest.raises(BadInputError) as typed, connect("also nowhere"):
        pass
    assert "RAY_ADDRESS" not in str(typed.value)


def test_no_home_folder_is_no_token(monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert find_token() is None


@pytest.mark.parametrize(("address", "hint"), MALFORMED)
def test_a_malformed_address_is_bad_input_that_names_the_right_form(address: str, hint: str):
    with pytest.raises(BadInputError, match="must be HOST:PORT") as caught:
        check_address(address)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


PATIENCE = 60
"""Seconds: a busy machine answers late, and Ray by itself would wait for minutes."""


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no.such.host.invalid:6379"])
def test_an_unreachable_cluster_is_bad_input_at_once(address: str):
    began = time.monotonic()
    with pytest.raises(BadInputError, match=f"none answers at {address}") as caught:
        probe(address)
    assert time.monotonic() - began < PATIENCE
    assert "\n" not in str(caught.value)


def test_another_server_is_not_taken_for_a_cluster():
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(BadInputError, match="is no head node"):
            probe(f"127.0.0.1:{server.server_port}")
        assert time.monotonic() - began < PATIENCE
        server.shutdown()


def test_the_token_is_found_where_ray_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    assert find_token() == "home"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert find_token() is None
    (tmp_path / "other").write_text("file")
    assert find_token() == "file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "environment")
    assert find_token() == "environment"


def test_a_job_takes_no_environment_results_or_history_along():
    excluded = yaml.safe_load((ROOT / "configs" / "cluster" / "runtime_env.yaml").read_text())["excludes"]
    assert {".git/", ".venv/", "runs/", "mlflow.db"} <= set(excluded)


@pytest.mark.ray
def test_connecting_within_a_session_uses_its_cluster_and_leaves_it_running(ray_session: Cluster):
    import ray

    assert not ray_session.joined
    assert ray_session.cpus >= 9
    with connect() as inner:
        assert inner.joined
        assert inner.address == ray_session.address
    assert ray.is_initialized()


@pytest.mark.ray
def test_a_local_instance_stops_and_leaves_no_token_behind(tmp_path: Path):
    script = (
        "import os\n"
        "from orchestrate.cluster.connection import connect, worker_environment\n"
        "with connect(environment=worker_environment(2, cores=6)) as cluster:\n"
        "    import ray\n"
        "    task = ray.remote(num_cpus=0.1)(lambda: os.environ['OMP_NUM_THREADS'])\n"
        "    assert ray.get(task.remote()) == '3'\n"
        "    assert os.environ['RAY_AUTH_MODE'] == 'token'\n"
        "assert not ray.is_initialized()\n"
        "assert not {'RAY_AUTH_MODE', 'RAY_AUTH_TOKEN'} & set(os.environ)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_A")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).strip() == ""
    assert not (tmp_path / ".ray").exists()


@pytest.mark.ray
def test_a_cluster_is_joined_with_its_token_and_refuses_another(local_head, tmp_path: Path):
    script = (
        "import sys\n"
        "from orchestrate.cluster.connection import connect\n"
        "from qalof.errors import BadInputError\n"
        "try:\n"
        # one string, so that what Ray prints beside it falls before or after
        "    with connect(sys.argv[1]) as cluster: print(f'{cluster.joined} {cluster.cpus}')\n"
        "except BadInputError as error: print(error)\n"
    )
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    # RAY_AUTH_MODE is left out: a token at hand is reason enough to send it.
    environment = {name: value for name, value in local_head.environment.items() if name != "RAY_AUTH_MODE"}
    for token, expected in ((None, "True 3.0"), (str(wrong), "got another one"), (str(tmp_path / "no"), "got none")):
        variables = environment | ({"RAY_AUTH_TOKEN_PATH": token} if token else {})
        line = [sys.executable, "-c", script, local_head.address]
        done = subprocess.run(line, env=variables, cwd=ROOT, capture_output=True, text=True)
        assert expected in done.stdout, done.stderr


@pytest.mark.ray
def test_a_submitted_job_runs_in_this_environment_and_reports_its_end(local_head, tmp_path: Path):
    (tmp_path / "job.py").write_text(
        "import os, sys\n"
        "print('python', sys.executable)\n"
        "print('address', bool(os.environ['RAY_ADDRESS']))\n"
        "print('excluded', os.path.exists('.venv'))\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "file").write_text("left behind")
    settings = str(ROOT / "configs" / "cluster" / "runtime_env.yaml")
    for code in ("0", "2"):
        line = [
            str(Path(sys.executable).parent / "ray"),
            "job",
            "submit",
            "--address",
            local_head.dashboard,
            "--runtime-env",
            settings,
        ]
        line += ["--working-dir", str(tmp_path), "--", "python", "job.py", code]
        done = subprocess.run(line, env=local_head.environment, capture_output=True, text=True)
        assert done.returncode == int(code != "0"), done.stdout + done.stderr
        assert f"python {Path(sys.executable).parent}" in done.stdout
        assert "address True" in done.stdout
        assert "excluded False" in done.stdout
        assert (code == "0") or "exit code 2" in done.stdout
