"""A home folder that is missing, cannot be written or is not named: commands work, or one line says what to set."""

import json
import logging
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from qalof import cache
from qalof.errors import BadInputError

ROOT = Path(__file__).resolve().parent.parent
HOMES = {"read-only": "/proc", "missing": "/proc/no/home", "empty": "", "unset": None}
SPAN = (
    'task={name: squad-span, settings: {max_length: 96, stride: 16, train_split: "train[:8]", '
    'validation_split: "validation[:2]"}}'
)
LINES = [
    ["--help"],
    ["validate", "--config", str(ROOT / "configs" / "train" / "sp_tiny.yaml")],
    [
        "train", SPAN, "objective={name: spnet}", "training={steps: 2, batch_size: 2}", "evaluation.limit=2",
        "workers={count: 1, in_process: true, threads: 1}", "--output", "run",
    ],
]  # fmt: skip
PROGRAM = """
import json, pwd, sys

def nobody(*given):
    raise KeyError("no such user")

pwd.getpwuid = pwd.getpwnam = nobody
from orchestrate.cli.app import main
for line in json.loads(sys.argv[1]):
    sys.argv = ["qalof", *line]
    main()
"""


@pytest.fixture
def home(monkeypatch, tmp_path):
    """Makes a home folder of a kind this process's; nobody has an entry among the system's users."""

    def gone(*given: object) -> None:
        raise KeyError("no such user")

    def put(kind: str) -> None:
        for name in ("QALOF_CACHE", "XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        if HOMES[kind] is not None:
            monkeypatch.setenv("HOME", HOMES[kind])
        monkeypatch.setattr(pwd, "getpwuid", gone)
        monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
        cache._own.cache_clear()

    yield put
    cache._own.cache_clear()


@pytest.mark.parametrize("kind", HOMES)
def test_without_a_home_folder_the_cache_is_in_the_temporary_one_which_is_said_once(kind, home, tmp_path, caplog):
    home(kind)
    with caplog.at_level(logging.WARNING):
        found = {cache.cache_dir() for _ in range(3)}
    assert found == {tmp_path / f"qalof-{os.getuid()}"}
    assert len(caplog.records) == 1
    assert "QALOF_CACHE" in caplog.text
    (folder,) = found
    assert folder.stat().st_mode & 0o777 == 0o700
    assert cache.models_dir() == folder / "models"


def test_where_no_folder_can_be_written_one_line_says_what_to_set(home, monkeypatch):
    home("missing")
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: "/proc")
    with pytest.raises(BadInputError, match="set QALOF_CACHE") as caught:
        cache.cache_dir()
    assert "\n" not in str(caught.value)


def test_a_temporary_folder_of_another_user_or_a_link_is_not_taken(home, tmp_path):
    home("missing")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"qalof-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInputError, match="another user's"):
        cache.cache_dir()


def test_a_cache_that_can_be_written_is_the_users_own(home, monkeypatch, tmp_path, caplog):
    home("unset")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / ".cache" / "qalof"
    assert not list(tmp_path.iterdir()), "asking makes nothing"
    assert not caplog.records


def started(kind: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """The commands in a process of their own, whose libraries look for a home folder while they are imported."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "HF_", "QALOF_", "MPL"))}
    kept.pop("HOME", None)
    environment = kept | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path)}
    environment |= {} if HOMES[kind] is None else {"HOME": HOMES[kind]}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(LINES)],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["read-only", "missing", "empty"])
def test_help_validate_and_a_training_in_process_work_without_a_home_folder(kind, tmp_path):
    done = started(kind, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "result.json").is_file()
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_user_without_any_home_folder_reads_help_and_is_told_in_one_line_what_to_set(tmp_path):
    done = started("unset", tmp_path)
    assert done.returncode == 2
    assert "Usage" in done.stdout
    assert done.stderr.count("error: ") == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "set HOME" in done.stderr
    assert "Traceback" not in done.stderr
