"""What docstrings and comments cite can be found by a reader of the repository alone."""

from __future__ import annotations

import re
from pathlib import Path

from tests.sources import ROOT, SOURCES, name_of

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


TEXTS = {name: path.read_text() for path in SOURCES if (name := name_of(path)).startswith(("qalof/", "search/"))}


def test_every_page_and_heading_that_is_cited_exists():
    assert not {name: missing for name, text in TEXTS.items() if (missing := unresolved(text))}


def test_a_module_that_names_a_system_says_where_the_systems_are_described():
    assert not [name for name, text in TEXTS.items() if SYSTEM.search(text) and "docs/systems.md" not in text]


def test_no_source_cites_a_document_outside_the_repository():
    assert not [name for name, text in TEXTS.items() if "algorithms.md" in text]
