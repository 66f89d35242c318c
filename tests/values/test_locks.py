"""One process at a time: a second one is refused in one line, and a kill leaves nothing locked."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import orchestrate
import search
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.locks import held, lock_of
from qalof.site import Site

SITES = [Site("h.0.a", 8, 8, False)]
"""Of a model of one layer."""

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
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
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


class Formula:
    """Scores that need no model; ``midway`` is called before each."""

    def __init__(self, midway):
        self.sites, self.at_once, self.limit, self.midway, self.scored = SITES, 1, None, midway, 0

    def fingerprint(self):
        return "formula"

    def evaluate(self, bitmaps, limit=None):
        self.midway()
        self.scored += 1
        return [Evaluation({"loss": 1.0}, 1, {}) for _ in bitmaps]


def searched(storage, midway=lambda: None):
    evaluator = Formula(midway)
    space = search.BitmapSpace.of(SITES, weight=(2, 4))
    found = search.run(space, evaluator, ["loss"], "random", max_evaluations=2, storage=storage)
    return len(found.points), evaluator.scored


def test_a_search_on_a_record_that_another_process_uses_is_refused_and_goes_on_afterwards(other, tmp_path):
    with pytest.raises(BadInputError, match=rf"storage must be free: .*run is in use by process {other.pid}"):
        searched(tmp_path / "run", lambda: pytest.fail("nothing is scored"))
    assert not (tmp_path / "run").exists()
    other.kill()
    other.wait()
    assert searched(tmp_path / "run") == (2, 2)
    assert searched(tmp_path / "run") == (2, 0), "the record is free after a search, and serves the next one"


def test_a_search_holds_its_record_until_it_ends_however_it_ends(tmp_path):
    def second():
        with pytest.raises(BadInputError, match="storage must be free"):
            searched(str(tmp_path / "record"))

    def fails():
        raise OSError("no such place")  # most other errors of an evaluation are failed trials, and the search goes on

    assert searched(tmp_path / "record", second) == (2, 2)
    (tmp_path / "record").unlink()
    with pytest.raises(OSError, match="no such place"):
        searched(tmp_path / "record", fails)
    assert searched(tmp_path / "record") == (2, 2)


def test_a_search_on_ray_is_refused_before_anything_starts(other, tmp_path):
    space = search.BitmapSpace.of(SITES, weight=(2, 4))
    evaluator = orchestrate.CheckpointEvaluator(tmp_path / "no checkpoint")
    with pytest.raises(BadInputError, match="storage must be free"):
        orchestrate.search(space, evaluator, ["loss"], storage=tmp_path / "run")


def test_searches_on_records_of_their_own_and_without_one_do_not_wait_for_each_other(other, tmp_path):
    assert searched(tmp_path / "another", lambda: searched(None)) == (2, 2)
