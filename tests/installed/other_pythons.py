"""The other Python versions that pyproject.toml names, as far as this machine and its package index have them.

For each of them, all sources are compiled by its interpreter.  Then the wheel is installed from the package index,
under the same pins, into an environment of its own (``build/pythons/3.13``), and ``smoke.py`` runs there in an empty
folder.  One line per version says what was done.  The environment is kept, so a second run is quick.

torch's CPU build is asked for by name (``torch==2.13.0+cpu``).  An index may have only the CUDA build of several GB for
a version; then the line says so, and ``--any-torch`` takes that build.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WINGS = ("qalof", "search", "orchestrate")
PREFIX = "Programming Language :: Python :: 3."
NOT_THERE = ("No matching distribution", "ResolutionImpossible")
"""What pip says of a build that the index does not have; the second where its user has constraints of their own."""


def named_versions() -> list[str]:
    """The versions of the classifiers, such as ``3.11``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [f"3.{each.removeprefix(PREFIX)}" for each in project["classifiers"] if each.startswith(PREFIX)]


def find_interpreter(version: str) -> str | None:
    """The first that runs and is of that version: on the path, then pyenv's.  A shim of pyenv often does not run."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    candidates = [shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]
    ask = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    for each in filter(None, candidates):
        answer = subprocess.run([each, "-I", "-c", ask], capture_output=True, text=True, check=False)
        if answer.returncode == 0 and answer.stdout.strip() == version:
            return each
    return None


def call(command: Sequence[str | Path], where: Path = ROOT) -> str:
    """Run it, and hand back its standard output.

    Raises:
        SystemExit: it failed; its errors are printed.
    """
    hidden = ("PYTHONPATH", "QALOF_DATA")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def copy_sources(place: Path) -> Path:
    """A copy of what is built and of the tests, in ``place/source``: a build writes beside its source."""
    source = place / "source"
    for name in (*WINGS, "configs", "tests"):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    for each in ROOT.iterdir():
        if each.is_file() and each.suffix != ".db":
            shutil.copy(each, source)
    return source


def compile_all(python: str, root: Path = ROOT) -> None:
    """All sources, as the interpreter reads them; what it warns of in their syntax is an error."""
    sources = [*WINGS, "tests", "benchmarks", "docs"]
    with tempfile.TemporaryDirectory() as cache:
        options = ["-X", f"pycache_prefix={cache}", "-W", "error::SyntaxWarning"]
        call([python, *options, "-m", "compileall", "-q", "-f", *sources], root)


def smoke_test(version: str, interpreter: str, any_torch: bool) -> str:
    """Install the wheel and run ``smoke.py``; what came of it."""
    place = ROOT / "build" / "pythons" / version
    python = place / "bin" / "python"
    if not python.exists():
        call([interpreter, "-m", "venv", place])
    pins = ROOT / "constraints.txt"
    (torch,) = [line for line in pins.read_text(encoding="utf-8").splitlines() if line.startswith("torch==")]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    got = subprocess.run([*pip, f"{torch}+cpu"], capture_output=True, text=True, check=False)
    if got.returncode and not any(said in got.stderr for said in NOT_THERE):
        sys.exit(got.stderr)
    if got.returncode and not any_torch:
        return (
            f"compiles all sources; no smoke test, for the package index has no CPU build of {torch} for it "
            "(`make test-pythons TORCH_BUILD=any` takes the CUDA build)"
        )
    if got.returncode:
        call([*pip, torch])
    with tempfile.TemporaryDirectory() as made:
        source = copy_sources(Path(made))
        build = f"from setuptools import build_meta; print(build_meta.build_wheel({made!r}))"
        wheel = Path(made, call([sys.executable, "-c", build], source).splitlines()[-1])
        call([*pip, "--constraint", pins, wheel])
        call([*pip, "--no-deps", "--force-reinstall", wheel])
    with tempfile.TemporaryDirectory() as empty:
        return call([python, "-I", Path(__file__).with_name("smoke.py")], Path(empty)).splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Try the other Python versions that pyproject.toml names.")
    parser.add_argument("--any-torch", action="store_true", help="take a CUDA build of several GB where no other is")
    any_torch = parser.parse_args().any_torch
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    for version in named_versions():
        if version == own:
            continue
        interpreter = find_interpreter(version)
        if interpreter is None:
            said = "not tried, for no interpreter of it is here"
        else:
            compile_all(interpreter)
            said = smoke_test(version, interpreter, any_torch)
        print(f"Python {version}: {said}", flush=True)


if __name__ == "__main__":
    main()
