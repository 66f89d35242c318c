"""The configs that travel with the code, and what a user hears who names one where there is no checkout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrate.config.loader import read_yaml
from orchestrate.config.shipped import CONFIGS
from qalof.errors import BadInputError

ROOT = Path(__file__).resolve().parents[3]
NAMES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml"))
CLIMB = re.compile(r"__file__\)?(?:\.resolve\(\)|\.absolute\(\))*((?:\.parent\b)+|\.parents\[(\d+)\])")


def test_the_shipped_configs_are_those_of_the_repository():
    assert CONFIGS == ROOT / "configs"
    inside = ROOT / "orchestrate" / "configs"
    assert inside.is_symlink()
    assert str(inside.readlink()) == "../configs", "relative, so that a copy of the repository has its own"


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_config_that_is_named_elsewhere_is_answered_with_its_place(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match="does not exist") as caught:
        read_yaml(Path(name))
    assert str(caught.value).endswith(f"the shipped one is {ROOT / name}")


def test_a_misspelled_shipped_config_is_answered_with_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError) as caught:
        read_yaml(Path("configs/train/sp_tinny.yaml"))
    assert str(ROOT / "configs") in str(caught.value)
    assert str(caught.value).endswith("did you mean 'configs/train/sp_tiny.yaml'?")


def test_a_missing_file_of_the_users_own_is_not_taken_for_a_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (Path("train/sp_tiny.yaml"), tmp_path / "configs" / "train" / "sp_tiny.yaml"):
        with pytest.raises(BadInputError) as caught:
            read_yaml(path)
        assert str(ROOT) not in str(caught.value)


@pytest.mark.parametrize("wing", ["qalof", "search", "orchestrate"])
def test_no_module_looks_for_files_above_its_package(wing):
    """Where it is installed, site-packages lies there."""
    seen = 0
    for path in (ROOT / wing).rglob("*.py"):
        depth = len(path.relative_to(ROOT).parts) - 1
        for climb, index in CLIMB.findall(path.read_text(encoding="utf-8")):
            seen += 1
            up = int(index) + 1 if index else climb.count(".parent")
            assert up <= depth, f"{path.relative_to(ROOT)} climbs {up} folders: {climb}"
    assert seen or wing != "qalof", "the tiny model's folder is found so"
