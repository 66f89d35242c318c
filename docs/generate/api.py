"""A page for each package of the three wings; mkdocstrings fills it from the docstrings of its modules."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WINGS = ("qalof", "search", "orchestrate")
FOLDER = "reference/api"


def packages() -> dict[str, list[Path]]:
    """The modules' files by the dotted name of their package, with the package's own file first."""
    found: dict[str, list[Path]] = {}
    for wing in WINGS:
        for path in sorted((ROOT / wing).rglob("*.py")):
            if path.name != "__main__.py":
                found.setdefault(".".join(path.parent.relative_to(ROOT).parts), []).append(path)
    return found


def menu() -> list[dict[str, str]]:
    """Make the entries of the menu."""
    return [{name: f"{FOLDER}/{name}.md"} for name in packages()]


def first_sentence(path: Path) -> str:
    """Read the first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".:")


def pages() -> dict[str, str]:
    """Make the pages, and an index of them."""
    made = {f"{FOLDER}/{name}.md": _page(name, files) for name, files in packages().items()}
    rows = [
        f"| [`{name}`]({name}.md) | {first_sentence(files[0])} |"
        for name, files in packages().items()
        if files[0].name == "__init__.py"
    ]
    head = (
        "# Python API\n\nMade from the docstrings. `qalof` is the core, `search` chooses bitmaps, `orchestrate` runs "
    )
    head += "jobs on Ray and keeps the record; each may import only those before it.\n\n"
    head += "| package | what it is |\n|---|---|\n"
    return {f"{FOLDER}/index.md": head + "\n".join(rows) + "\n", **made}


def _page(name: str, files: list[Path]) -> str:
    modules = []
    for path in files:
        own = path.name == "__init__.py"
        modules.append(name if own else f"{name}.{path.stem}")
    # a package's own page shows its text alone: what it passes on is shown where it is defined
    options = {True: "\n    options:\n      members: false", False: ""}
    blocks = [f"::: {module}{options[module == name]}" for module in modules]
    return f"# `{name}`\n\n" + "\n\n".join(blocks) + "\n"
