"""Commands as jobs of a cluster: every word arrives as it was, nothing is lost with the working directory's copy."""

import asyncio
import json
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import yaml
from ray.job_submission import JobStatus

from orchestrate.cli.submit import check_words
from orchestrate.cluster import submission as jobs
from orchestrate.cluster.submission import ENTRY, Submission
from orchestrate.runs.mlflow_store import check_machines
from qalof.errors import BadInputError

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = ROOT / "configs" / "cluster"
GOOD = ("train", "--config", str(ROOT / "configs/train/sp_tiny.yaml"), "--output", "/all/sp", "tracking.root=/all")


class FakeClient:
    """A job server: jobs end at once, as ``ends`` says, and print their entry points."""

    def __init__(self, ends="SUCCEEDED"):
        self.ends, self.jobs, self.stopped = ends, {}, []

    def submit_job(self, *, entrypoint, runtime_env, submission_id, metadata):
        name = submission_id or f"job{len(self.jobs) + 1}"
        if name in self.jobs:
            raise RuntimeError(f"Job with submission_id {name} already exists.\nTraceback: long")
        status = JobStatus(self.ends)
        self.jobs[name] = SimpleNamespace(
            status=status, entrypoint=entrypoint, message="it broke\nwith a traceback", runtime_env=runtime_env
        )
        return name

    def get_job_info(self, job):
        if job not in self.jobs:
            raise RuntimeError(f"Job {job} does not exist")
        return self.jobs[job]

    def stop_job(self, job):
        was, self.jobs[job].status = not self.jobs[job].status.is_terminal(), JobStatus.STOPPED
        return was

    async def tail_job_logs(self, job):
        for text in ("begun\n", "done\n"):
            await asyncio.sleep(0)
            yield text


@pytest.fixture
def server(monkeypatch):
    client = FakeClient()
    monkeypatch.setattr(jobs, "client_of", lambda address: client)
    return client


@pytest.fixture
def call(say):
    """Runs ``qalof submit``; returns its exit code, standard output and standard error."""
    return partial(say, "submit")


@pytest.mark.parametrize(
    "word",
    [
        "a b",
        "it's",
        '"',
        "$HOME",
        "$(touch x)",
        "`touch x`",
        "a;touch x",
        "a\nb",
        "*",
        "~",
        "\\",
        "",
        "ünï",
        "a=b&&c",
        "#",
    ],
)
def test_every_word_arrives_as_it_was(word, tmp_path):
    words = ("train", f"title={word}", word)
    line = Submission(words, tmp_path).entrypoint
    assert line.startswith("python -m orchestrate train ")
    shown = line.replace(
        shlex.join(ENTRY), f"{shlex.quote(sys.executable)} -c 'import sys,json;print(json.dumps(sys.argv[1:]))'"
    )
    said = subprocess.run(["sh", "-c", shown], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == list(words)
    assert not list(tmp_path.iterdir())


def test_runs_and_environments_stay_here_and_variables_go_along(monkeypatch, tmp_path):
    monkeypatch.setenv("QALOF_DATA", "/data")
    environment = jobs.read_environment(["QALOF_DATA", "A=b=c", "EMPTY="])
    assert environment == {"QALOF_DATA": "/data", "A": "b=c", "EMPTY": ""}
    made = Submission(GOOD, tmp_path, environment).runtime_env
    assert {"runs/", ".venv/", ".git/"} <= set(made["excludes"])
    assert (made["working_dir"], made["env_vars"]) == (str(tmp_path), environment)
    ray.runtime_env.RuntimeEnv(**made)
    for wrong in ("9A=1", "=1", "A B=1", "NOT_SET_HERE"):
        with pytest.raises(BadInputError, match="--env"):
            jobs.read_environment([wrong])


def test_a_job_is_followed_to_its_end_stopped_and_resumed_with_the_same_words(server, call):
    code, out, _ = call("--id", "sp", "--", *GOOD, "title=a b")
    assert (code, out.splitlines()[:2]) == (0, ["begun", "done"])
    assert json.loads(call("--json", "--follow", "sp")[1].splitlines()[-1]) == {"id": "sp", "status": "SUCCEEDED"}
    assert json.loads(call("--detach", "--json", "--", *GOOD)[1]) == {"id": "job2"}
    assert call("--resume", "sp", "--id", "again")[0] == 0
    assert server.jobs["again"].entrypoint == server.jobs["sp"].entrypoint
    server.jobs["job2"].status = JobStatus.RUNNING
    code, _, error = call("--resume", "job2")
    assert (code, "RUNNING" in error) == (2, True)
    assert "is stopped" in call("--stop", "job2")[1]
    assert "had ended" in call("--stop", "job2")[1]


def test_a_job_that_fails_is_an_error_of_one_line_with_the_way_to_go_on(server, call):
    server.ends = "FAILED"
    code, _, error = call("--", *GOOD)
    assert code == 1
    assert error.splitlines()[-1].startswith("error: job job1 ended as FAILED: it broke; `qalof submit --resume job1`")


def test_whoever_stops_following_is_told_that_the_job_goes_on(server, call, monkeypatch):
    async def interrupted(job):
        raise KeyboardInterrupt
        yield

    server.tail_job_logs = interrupted
    code, _, error = call("--id", "x", "--", *GOOD)
    assert code == 1
    assert "job x is not followed any longer, and goes on" in error
    assert "--stop x" in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "one of a command"),
        (("--follow", "a", "--stop", "b"), "one of a command"),
        (("--", "trian"), "'trian'"),
        (("--", "ui"), "'ui'"),
        (("--", "train", "tracking.root=/all"), "--output must be an absolute path"),
        (("--", "train", "--output", "runs/sp", "tracking.root=/all"), "got runs/sp"),
        (("--", "train", "--output", "/all/sp"), "tracking.root, got runs"),
        (("--", "train", "--outptu", "/all/sp"), "--outptu"),
        (("--working-dir", "/nowhere", "--", *GOOD), "/nowhere"),
        (("--follow", "nothing"), "must have job nothing"),
        (("--stop", "nothing"), "must have job nothing"),
        (("--resume", "nothing"), "must have job nothing"),
    ],
)
def test_what_cannot_be_submitted_is_refused_in_one_line(words, said, server, call):
    code, out, error = call(*words)
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert said in error
    assert not server.jobs


def test_an_id_that_is_taken_and_a_foreign_job_are_refused(server, call):
    assert call("--id", "a", "--", *GOOD)[0] == 0
    code, _, error = call("--id", "a", "--", *GOOD)
    assert (code, "already exists" in error, "Traceback" in error) == (2, True, False)
    server.jobs["a"].entrypoint = "sleep 10"
    assert "one of `qalof submit`" in call("--resume", "a")[2]


def test_a_dry_run_shows_no_secret_and_asks_no_server(call, monkeypatch, tmp_path):
    monkeypatch.setattr(jobs, "client_of", None)
    said = call("--dry-run", "--json", "--env", "TOKEN=secret", "--", *GOOD)[1]
    assert "secret" not in said
    assert json.loads(said)["entrypoint"] == Submission(GOOD, tmp_path).entrypoint


def test_no_server_and_no_address_are_bad_input():
    for address in ("10.0.0.5:6379", "ray://a:10001", "http://127.0.0.1:9"):
        with pytest.raises(BadInputError, match="dashboard"):
            jobs.client_of(address)


def check_record(words, server):
    """The job names a record that several machines may have, and it is that of the server beside it."""
    (uri,) = [word.removeprefix("tracking.uri=") for word in words if word.startswith("tracking.uri=")]
    check_machines(8, uri)
    host, port = (server[server.index(option) + 1] for option in ("--host", "--port"))
    assert uri == f"http://{host}:{port}"
    assert host == "127.0.0.1"


def test_the_launchers_file_is_one_that_ray_takes_for_eight_gpus():
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = (CLUSTER / "launcher.yaml").read_text()
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    assert 1 + len(config["provider"]["worker_ips"]) == 8
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line)
    (line,) = [line for line in text.splitlines() if "qalof submit --" in line]
    words = shlex.split(line.partition("qalof submit -- ")[2])
    check_words(words)
    (server,) = [line for line in starts if "mlflow server" in line]
    check_record(words, shlex.split(server))


def test_the_rayjob_has_the_fields_of_its_kind_the_pinned_ray_and_eight_gpus():
    job = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert set(spec) <= {
        "entrypoint", "runtimeEnvYAML", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
        "backoffLimit", "rayClusterSpec", "metadata", "jobId", "entrypointNumCpus",
    }  # fmt: skip
    assert set(cluster) <= {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs", "enableInTreeAutoscaling"}
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    assert cluster["authOptions"] == {"mode": "token"}
    gpus = 0
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        (container,) = group["template"]["spec"]["containers"]
        gpus += group["replicas"] * container["resources"]["limits"]["nvidia.com/gpu"]
    assert gpus == yaml.safe_load((ROOT / "configs/train/sp_squad.yaml").read_text())["workers"]["count"] == 8
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert {"name", "image", "resources", "volumeMounts"} <= set(pod["containers"][0])
        mounted = {mount["name"] for each in pod["containers"] for mount in each["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    words = shlex.split(spec["entrypoint"])
    assert tuple(words[:3]) == ENTRY
    check_words(words[3:])
    (server,) = [each["command"] for each in cluster["headGroupSpec"]["template"]["spec"]["containers"][1:]]
    check_record(words, server)
    assert (ROOT / words[5].removeprefix("/home/ray/qalof/")).is_file()
