"""The files that a stranger looks for are there, and say the same as the project's metadata."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WINGS = ("qalof", "search", "orchestrate")


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def test_the_license_is_apache_2_in_full_and_in_the_metadata():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert PROJECT["project"]["license-files"] == ["LICENSE"]


def test_citation_and_metadata_name_one_version_and_license():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_the_types_of_all_packages_are_for_users_too():
    for wing in WINGS:
        assert (ROOT / wing / "py.typed").is_file()
        assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"][wing]


def test_hooks_are_local_and_their_tools_are_installed_with_the_developers_extra():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {"ruff", "ruff-format", "mypy", "codespell", "large-files"} == {hook["id"] for hook in hooks}
    extra = {name_of(each) for each in PROJECT["project"]["optional-dependencies"]["dev"]}
    packages = {"check-added-large-files": "pre-commit-hooks"}
    for hook in hooks:
        tool = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert packages.get(tool, tool) in extra


def test_every_direct_dependency_is_pinned():
    pinned = {name_of(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    project = PROJECT["project"]
    heavy = {"bnb", "runtime"}  # optional engines, which the tests of their own extra install
    extras = [each for name, group in project["optional-dependencies"].items() if name not in heavy for each in group]
    assert {name_of(each) for each in [*project["dependencies"], *extras]} <= pinned


def test_the_guide_names_targets_that_make_has():
    makefile = (ROOT / "Makefile").read_text()
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"(?:^|`)make ([\w-]+)", guide, re.M))
    assert {"install", "test", "lint", "docs"} <= named
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in named), named


def test_the_documentation_is_built_by_continuous_integration_and_needs_no_network():
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make docs")
    settings = (ROOT / "mkdocs.yml").read_text()
    assert "strict: true" in settings
    assert "font: false" in settings
    for page in [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.css")]:
        assert not re.search(r"!\[[^\]]*\]\(http|<script|<link|@import", page.read_text()), page


def test_a_committed_result_is_one_json_object_and_nothing_besides():
    results = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert results
    for path in results:
        assert isinstance(json.loads(path.read_text(encoding="utf-8")), dict), path.name
