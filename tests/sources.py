"""The source files of all three wings, parsed once for all tests that read them."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WINGS = ("qalof", "search", "orchestrate")
SOURCES = [path for wing in WINGS for path in sorted((ROOT / wing).rglob("*.py"))]


def name_of(path: Path) -> str:
    """The path within the repository, with slashes."""
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file's syntax tree."""
    return tuple(ast.walk(parsed(path)))


def attributes(path: Path) -> set[str]:
    """The names of all attributes that a file reads, writes or calls."""
    return {node.attr for node in nodes(path) if isinstance(node, ast.Attribute)}
