"""What is built for users to install: its contents, and that it works where there is no checkout."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WINGS = ("qalof", "search", "orchestrate")
copy_sources = runpy.run_path(str(ROOT / "tests" / "installed" / "other_pythons.py"))["copy_sources"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist, built without a network from a copy.

    The copy has what running tests leave behind (``__pycache__``), which must not get in.
    """
    place = tmp_path_factory.mktemp("build")
    source = copy_sources(place)
    for wing in WINGS:
        (source / wing / "__pycache__").mkdir(exist_ok=True)
        (source / wing / "__pycache__" / "left.cpython-311.pyc").write_bytes(b"left behind")
    build = f"from setuptools import build_meta as b; b.build_wheel({str(place)!r}); b.build_sdist({str(place)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    shutil.rmtree(source)
    return place


@pytest.fixture(scope="module")
def in_wheel(built) -> set[str]:
    (wheel,) = built.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def in_sdist(built) -> set[str]:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if not member.isdir()]
    assert all(member.isfile() for member in members), "a link would point out of the archive"
    return {member.name.partition("/")[2] for member in members}


def expected() -> set[str]:
    """Every module and every file of data of the three wings, and every config, which the link shows within them."""
    own = {
        str(path.relative_to(ROOT))
        for wing in WINGS
        for path in (ROOT / wing).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and "configs" not in path.relative_to(ROOT).parts
    }
    return own | {f"orchestrate/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["in_wheel", "in_sdist"])
def test_what_is_built_holds_every_module_config_and_file_of_data_and_nothing_else(kind, request):
    names = request.getfixturevalue(kind)
    there = {name for name in names if name.split("/")[0] in WINGS}
    assert there == expected()
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    others = {name.split("/")[0] for name in names - there}
    if kind == "in_wheel":
        assert others == {next(iter(name for name in others if name.endswith(".dist-info")))}
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    else:
        metadata = {"PKG-INFO", "setup.cfg", "qalof.egg-info"}
        assert others - metadata == {
            "LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "constraints.txt", "pyproject.toml", "MANIFEST.in",
        }  # fmt: skip


def test_a_wheel_made_from_the_sdist_is_the_wheel(built, in_wheel, tmp_path):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    build = f"from setuptools import build_meta as b; b.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert set(zipfile.ZipFile(wheel).namelist()) == in_wheel


@pytest.fixture(scope="module")
def elsewhere(built, tmp_path_factory) -> Path:
    """The interpreter of a new environment that has the wheel, and this environment's packages behind it.

    A line in a ``.pth`` file lends the folder of packages but not what it installs at start, so the editable install
    that may be there is out of reach.
    """
    (wheel,) = built.glob("*.whl")
    place = tmp_path_factory.mktemp("elsewhere") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", wheel]
    subprocess.run(install, check=True, capture_output=True)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.timeout(1500)  # a minute by itself; ten times that where other work has the cores
def test_an_installed_wheel_works_in_a_folder_that_is_no_checkout(elsewhere, tmp_path):
    place = tmp_path / "empty"
    place.mkdir()
    hidden = ("PYTHONPATH", "QALOF_DATA")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [elsewhere, "-I", ROOT / "tests" / "installed" / "smoke.py"]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "a training and its report are made" in done.stdout
