"""One process at a time: a second one is refused in one line, and a kill leaves nothing locked."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qalof.errors import BadInputError
from qalof.locks import held, lock_of

HOLDS = """
import sys, time
from pathlib import Path
from qalof.locks import held
with held(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds ``tmp_path/run``."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    words = [sys.executable, "-c", HOLDS, str(tmp_path / "run")]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_told_who_holds_it_and_a_kill_sets_it_free(other, tmp_path):
    with pytest.raises(BadInputError) as refused, held(tmp_path / "run", "--output"):
        pass
    message = str(refused.value)
    assert f"in use by process {other.pid} on " in message
    assert " since 20" in message
    assert "\n" not in message
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    with held(tmp_path / "run", "--output"):
        assert lock_of(tmp_path / "run").is_file()


def test_whoever_waits_goes_on_when_the_other_ends(other, tmp_path):
    threading.Timer(0.3, other.kill).start()
    with held(tmp_path / "run", "it", wait=True):
        assert other.wait() != 0


def test_it_is_free_again_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), held(tmp_path / "run", "it"):
        raise RuntimeError
    once, again = held(tmp_path / "run", "it"), held(tmp_path / "run", "it")
    with once, pytest.raises(BadInputError, match=f"process {os.getpid()}"), again:
        pass


def test_two_names_of_one_folder_have_one_lock(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with held(tmp_path / "link", "it"), pytest.raises(BadInputError), held(tmp_path / "link" / ".." / "run", "it"):
        pass


def test_a_lock_file_of_any_content_can_be_read(tmp_path):
    lock_of(tmp_path / "run").write_bytes(b"\xff{")
    with held(tmp_path / "run", "it"):
        lock_of(tmp_path / "run").write_text("[]")
        with pytest.raises(BadInputError, match="another process"), held(tmp_path / "run", "it"):
            pass
