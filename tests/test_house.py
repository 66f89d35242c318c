"""The house of the design: which wing may import which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "qalof": {"ray", "mlflow", "optuna", "search", "orchestrate"},
    "search": {"ray", "mlflow", "orchestrate"},
    "orchestrate": set(),
}
SOURCES = [(wing, path) for wing in FORBIDDEN for path in sorted((ROOT / wing).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(("wing", "path"), SOURCES, ids=lambda value: str(value).removeprefix(f"{ROOT}/"))
def test_imports_point_from_orchestrate_to_search_to_qalof(wing, path):
    assert not imported(path) & FORBIDDEN[wing]


def test_every_module_says_what_it_is_for():
    silent = [
        path for _, path in SOURCES if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent
