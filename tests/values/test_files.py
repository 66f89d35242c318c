"""Files and folders on a disk that fills, and after a kill: whole or as they were."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qalof.errors import BadInputError, DiskError
from qalof.files import (
    append_lines,
    copy_folder,
    disk_errors,
    open_sealed,
    read_whole_lines,
    sealed_folder,
    tidy,
    write_json,
)

HEAD = {"format_version": 1}


def limited(work: Callable[[], None], size: int = 4096) -> None:
    """``work`` where no file may pass ``size`` bytes: the system's own refusal, as on a disk that fills."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # pytest's own output may go to a file that is longer already
    sys.stdout.flush()
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        work()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def sealed(target: Path, value: float, length: int = 8) -> Path:
    with sealed_folder(target, HEAD) as beside:
        save_file({"x": torch.full((length,), value)}, beside / "x.safetensors")
    return target


def test_a_json_file_that_does_not_fit_leaves_the_older_one_and_nothing_half(tmp_path):
    write_json(tmp_path / "result.json", {"f1": 1})
    with pytest.raises(DiskError, match=r"room for .*result.json: File too large; .* make room and start"):
        limited(lambda: write_json(tmp_path / "result.json", {"f1": [0.5] * 4000}))
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert (tmp_path / "result.json").read_text() == '{\n  "f1": 1\n}\n'


def test_a_sealed_folder_that_does_not_fit_leaves_the_older_one_and_nothing_half(tmp_path):
    sealed(tmp_path / "checkpoint", 1.0)
    with pytest.raises(DiskError, match="checkpoint: File too large"):
        limited(lambda: sealed(tmp_path / "checkpoint", 2.0, length=4000) and None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    open_sealed(tmp_path / "checkpoint", "checkpoint", 1)
    assert load_file(tmp_path / "checkpoint" / "x.safetensors")["x"][0] == 1.0


def test_a_copy_that_does_not_fit_leaves_nothing_half(tmp_path):
    source = sealed(tmp_path / "source", 1.0, length=4000)
    with pytest.raises(DiskError, match="target: File too large"):
        limited(lambda: copy_folder(source, tmp_path / "target"))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    copy_folder(source, tmp_path / "target")
    open_sealed(tmp_path / "target", "copy", 1)


def test_lines_that_do_not_fit_leave_the_record_as_it_was(tmp_path):
    record = tmp_path / "losses.jsonl"
    append_lines(record, ["one", "two"])
    with pytest.raises(DiskError, match="losses.jsonl"):
        limited(lambda: append_lines(record, ["x" * 3000, "y" * 3000]))
    assert record.read_text() == "one\ntwo\n"
    append_lines(record, ["three"])
    assert record.read_text() == "one\ntwo\nthree\n"


@pytest.mark.parametrize("torn", ["", '{"ste', "x" * 9000])
def test_a_torn_line_is_cut_off_before_the_next_is_added(tmp_path, torn):
    record = tmp_path / "losses.jsonl"
    for start in ("", "one\n", "one\n" + "y" * 5000 + "\n"):
        record.write_text(start + torn)
        append_lines(record, ["two"])
        assert record.read_text() == start + "two\n"


def test_of_a_record_that_is_being_written_exactly_the_whole_lines_are_read(tmp_path):
    record, text = tmp_path / "losses.jsonl", '{"step": 1}\n\n{"word": "é\u2028"}\n'.encode()
    assert read_whole_lines(record) == []
    for written in range(len(text) + 1):
        record.write_bytes(text[:written])
        assert read_whole_lines(record) == text.split(b"\n")[: text[:written].count(b"\n")]


ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("wing", ["qalof", "search", "orchestrate"])
def test_every_record_of_lines_has_one_reader_that_forgives_a_torn_end(wing):
    for path in (ROOT / wing).rglob("*.py"):
        if path != ROOT / "qalof" / "files.py":
            assert "_torn" not in path.read_text(), f"{path} must read lines by qalof.files.read_whole_lines"


def test_an_error_that_is_none_of_the_disk_stays_what_it_was(tmp_path):
    with pytest.raises(BlockingIOError), disk_errors(tmp_path):
        raise BlockingIOError(errno.EAGAIN, "Try again")


def test_what_a_kill_leaves_beside_a_folder_is_hidden_and_goes_and_an_older_folder_comes_back(tmp_path):
    target = sealed(tmp_path / "checkpoint", 1.0)
    other = sealed(tmp_path / "checkpoint_best", 3.0)
    (tmp_path / ".checkpoint.new.abc").mkdir()
    (tmp_path / ".checkpoint.new.abc" / "half").write_text("")
    (tmp_path / ".checkpoint.old.def").mkdir()
    target.replace(tmp_path / ".checkpoint.old.def" / "old")  # killed between the two renames
    with pytest.raises(BadInputError, match="does not exist"):
        open_sealed(target, "checkpoint", 1)
    tidy(target)
    open_sealed(target, "checkpoint", 1)
    open_sealed(other, "checkpoint", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "checkpoint_best"]


KILLED = """
import os, signal, sys
from pathlib import Path
from qalof.files import sealed_folder
with sealed_folder(Path(sys.argv[1]), {"format_version": 1}) as beside:
    (beside / "x.safetensors").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_while_a_sealed_folder_is_filled_leaves_the_older_one(tmp_path):
    target = sealed(tmp_path / "checkpoint", 1.0)
    ended = subprocess.run([sys.executable, "-c", KILLED, str(target)], env=dict(os.environ), check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    open_sealed(target, "checkpoint", 1)
    tidy(target)
    assert list(tmp_path.iterdir()) == [target]
