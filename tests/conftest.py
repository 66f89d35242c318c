"""What tests of several wings share."""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from orchestrate.cluster.connection import Cluster

# Libraries and collected tests are millions of objects that stay.  To look through these again and again for garbage
# takes an eighth of the time of all tests.
gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Models this small run slower on more threads, and sums in another order; jobs in this process set their own."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def all_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels of a processor with all instructions run on every other, slower and to the same bits."""
    from qalof import processor

    monkeypatch.setattr(
        processor, "capabilities", lambda: {"architecture": "x86_64", "avx512_bf16": True, "avx512_vnni": True}
    )


@pytest.fixture
def quick_commands(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Commands that name no threads take one, since models this small wait for a second one; and a record that a
    command of this process makes begins as a copy of one whose tables MLflow made once.
    """
    from orchestrate.cluster import evaluation_pool
    from orchestrate.runs import mlflow_store

    real, tables = mlflow_store._client, tmp_path_factory.getbasetemp() / "tables.db"

    def client(uri: str) -> Any:
        file = mlflow_store.database_of(uri)
        if file is not None and not file.exists() and os.access(file.parent, os.W_OK):
            if not tables.exists():
                real(f"sqlite:///{tables}").search_experiments()
            shutil.copy(tables, file)
        return real(uri)

    monkeypatch.setattr(evaluation_pool, "physical_cores", lambda: 1)
    monkeypatch.setattr(mlflow_store, "_client", client)


@pytest.fixture
def narrowing() -> Callable[[], contextlib.AbstractContextManager[list[str]]]:
    """``with narrowing() as found``: a name for each operation within that makes a float32 or bfloat16 tensor."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Watch(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            narrow = (torch.float32, torch.bfloat16)
            if any(isinstance(each, torch.Tensor) and each.dtype in narrow for each in tree_leaves(made)):
                self.found.append(str(func))
            return made

    @contextlib.contextmanager
    def watch() -> Iterator[list[str]]:
        with Watch() as mode:
            yield mode.found

    return watch


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a two-block GPT-2 with random weights and the shipped model's tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from qalof.model.pretrained import load_tokenizer
    from qalof.tiny import MODEL_DIR

    folder: Path = tmp_path_factory.mktemp("random_model")
    tokenizer = load_tokenizer(str(MODEL_DIR))
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=128, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def real_gguf() -> Path:
    """The GGUF file that ``make real-model`` fetches."""
    from qalof.cache import models_dir
    from qalof.real_model import LANGUAGE_MODEL

    (name,) = LANGUAGE_MODEL.files
    path = models_dir() / LANGUAGE_MODEL.name / name
    if not path.is_file():
        pytest.skip(f"the real model is not in {models_dir()}: make real-model fetches it")
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: ``$QALOF_DATA``, or ``../shared/data`` beside this checkout."""
    path = Path(os.environ.get("QALOF_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"there is no real data in {path}: set QALOF_DATA to its folder")
    return path


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Cluster]:
    """One local Ray for all tests of the session; ``connect()`` within them uses it.  Room for eight workers."""
    from orchestrate.cluster.connection import connect, logical_cpus, physical_cores

    with connect("local", num_cpus=logical_cpus(8, physical_cores())) as cluster:
        yield cluster


@dataclass(frozen=True)
class Head:
    """A head node: ``address`` for drivers, ``dashboard`` for jobs, and the environment that holds its token."""

    address: str
    dashboard: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def local_head() -> Iterator[Head]:
    """A head node with token authentication, on ports, a folder and a token of its own."""
    folder = Path(tempfile.mkdtemp(prefix="qh", dir="/tmp"))  # short: sockets lie below it
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    ports = free_ports(4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    try:
        with running_head(folder, ports, environment):
            wait_for_jobs(f"http://127.0.0.1:{ports[1]}/api/jobs/", token.read_text(), folder / "head.log")
            yield Head(f"127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", environment)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running_head(folder: Path, ports: list[int], environment: dict[str, str]) -> Iterator[None]:
    """``ray start --block`` under a shell that ends it when its input closes, so that it dies with pytest.

    Not ``ray stop``: that ends every Ray on the machine.
    """
    command = [
        "ray", "start", "--head", "--block", "--disable-usage-stats", f"--temp-dir={folder}/ray", "--num-cpus=3",
        f"--port={ports[0]}", f"--dashboard-port={ports[1]}", f"--ray-client-server-port={ports[2]}",
        "--min-worker-port=0", "--max-worker-port=0",
        # another Ray of this machine has the usual port, and without its agent a head runs no jobs
        f"--dashboard-agent-listen-port={ports[3]}",
    ]  # fmt: skip
    script = '"$@" & head=$!; read -r _; kill $head; wait $head'
    with (folder / "head.log").open("w") as log:
        shell = subprocess.Popen(
            ["sh", "-c", script, "sh", *command],
            env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        assert shell.stdin is not None
        try:
            yield
        finally:
            shell.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                shell.wait(timeout=40)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)


def wait_for_jobs(url: str, token: str, log: Path, patience: float = 120) -> None:
    """Until a job is taken: the dashboard answers seconds before there is an agent to run one."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, data=b'{"entrypoint": "true"}', headers=headers)
    until = time.monotonic() + patience
    while time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=30):
            return
        time.sleep(0.5)
    pytest.fail(f"the head node takes no jobs after {patience:.0f} s:\n{log.read_text()[-2000:]}")


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
