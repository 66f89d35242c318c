"""What mkdocs calls while it builds: references are made from the code, and formulas become MathML."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the pages are made by docs.generate, of the checkout that is being built

from docs.generate import api, commands, configs, tables, tree  # noqa: E402

OPTIONAL_PAGES = (("A first hour", "first_hour.md"),)
"""Pages that the menu shows, after the first two, where they exist."""

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*(?:\\\((.*?)\\\)|\\\[(.*?)\\\])\s*</\1>', re.S)


def pages() -> dict[str, str]:
    """Make the generated pages: Markdown by path below docs/."""
    return {**commands.pages(), **configs.pages(), **tables.pages(), **tree.pages(), **api.pages()}


def on_config(config: Any) -> Any:
    """Add the generated pages to the menu."""
    present = [{title: path} for title, path in OPTIONAL_PAGES if (ROOT / "docs" / path).is_file()]
    config.nav[2:2] = present
    config.nav.append(
        {
            "Reference": [
                {"Command line": "reference/commands.md"},
                {"Configs": ["reference/configs/index.md", *configs.menu()]},
                {"Tables of the four systems": "reference/tables.md"},
                {"Annotated tree": "reference/tree.md"},
                {"Python API": ["reference/api/index.md", *api.menu()]},
            ]
        }
    )
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages to the site."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_content(text: str, **_: Any) -> str:
    """Formulas as MathML, which browsers render by themselves."""
    return _FORMULA.sub(_mathml, text)


def _mathml(match: re.Match[str]) -> str:
    block = match[3] is not None
    made = convert(html.unescape(match[3] if block else match[2]).strip(), display="block" if block else "inline")
    return f'<div class="formula">{made}</div>' if block else str(made)
