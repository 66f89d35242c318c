"""What docstrings and comments cite can be found by a reader of the repository alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [path for wing in ("qalof", "search") for path in sorted((ROOT / wing).rglob("*.py"))]
CITATION = re.compile(r'(docs/[\w/]+\.md)(?:,\s+(?:# )?"([^"]+)")?')
SYSTEM = re.compile(r"\bS[1-4]\b")


def headings(page: Path) -> set[str]:
    """The headings of a page in lower case, whole and up to a colon or a parenthesis."""
    found = {line.lstrip("#").strip().lower() for line in page.read_text().splitlines() if line.startswith("#")}
    return found | {re.split(r"[:(]", heading)[0].strip() for heading in found}


def unresolved(text: str) -> list[str]:
    """The citations in ``text`` of pages or headings that do not exist."""
    missing = []
    for page, heading in CITATION.findall(text):
        known = (ROOT / page).is_file()
        if not known or (heading and " ".join(heading.split()).lower() not in headings(ROOT / page)):
            missing.append(f"{page} {heading}".strip())
    return missing


def test_a_missing_page_or_heading_is_found():
    cited = 'See docs/methods/none.md; docs/methods/quantizers.md, "Granularity"; docs/methods/quantizers.md, "none".'
    assert unresolved(cited) == ["docs/methods/none.md", "docs/methods/quantizers.md none"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_page_and_heading_that_is_cited_exists(path):
    assert not unresolved(path.read_text())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_that_names_a_system_says_where_the_systems_are_described(path):
    text = path.read_text()
    assert not SYSTEM.search(text) or "docs/systems.md" in text


def test_no_source_cites_a_document_outside_the_repository():
    assert not [path for path in SOURCES if "algorithms.md" in path.read_text()]
