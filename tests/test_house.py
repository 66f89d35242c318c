"""The house of the design: which wing may import which, and its rooms from the ground up."""

import ast
from pathlib import Path

from tests.sources import ROOT, SOURCES, name_of, nodes, parsed

FORBIDDEN = {
    "qalof": {"ray", "mlflow", "optuna", "search", "orchestrate"},
    "search": {"ray", "mlflow", "orchestrate"},
    "orchestrate": set(),
}

ROOMS = {
    "qalof": """
        values
        tiny quantization site latency site_cost cost
        model.layers model
        evaluation tasks
        training.objectives training post_training export
        checkpoint
        attacks attacks.substitutes attacks.methods attacks.robustness
        serving
    """,
    "search": """
        allocation.knapsack budget metric_limit objective failure front point bitmap_plot grouping menu space
        scores allocation measurement strategies plot result
        study record evaluator judge resolve loop
    """,
    "orchestrate": """
        config runs cluster document
        jobs.base jobs.shared jobs jobs.registry jobs.run
        mlflow_model
        pipeline report cli
    """,
}
"""The rooms of each wing from the ground up: none imports a later one.

A room is a package, or a file that stands by itself; the innermost one that holds a file is the file's.  ``values`` are
the other files of ``qalof/`` itself.  The packages' own ``__init__.py`` stand above all of their wing, as does
``orchestrate/__main__.py``.
"""

EXCEPTIONS: set[tuple[str, str]] = set()
"""Imports from a lower room to a higher one that are still there: (importing module, imported module)."""


def modules() -> dict[str, Path]:
    """Dotted name -> file, of all three wings."""
    found = {}
    for path in SOURCES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(path: Path) -> set[str]:
    """The modules of the house that a file imports, wherever in it, for type checkers alone included."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found & set(MODULES)


GRAPH = {name: imports_of(path) - {name} for name, path in MODULES.items()}


def floor_of(module: str) -> tuple[int, int]:
    """The wing's place and the room's within it; what is not in a room stands above its wing."""
    wing, _, rest = module.partition(".")
    rooms = ROOMS[wing].split()
    if not rest or rest == "__main__":
        return list(ROOMS).index(wing), len(rooms)
    own = [room for room in rooms if rest == room or rest.startswith(f"{room}.")]
    if not own and wing == "qalof" and "." not in rest:
        own = ["values"]
    assert own, f"{module} stands in no room: write its room into ROOMS, where it belongs"
    return list(ROOMS).index(wing), rooms.index(max(own, key=len))


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The largest sets of modules that reach each other."""
    reached = {name: set(graph[name]) for name in graph}
    for middle in graph:
        for name in graph:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    found = [frozenset(other for other in reached[name] if name in reached[other]) for name in graph]
    return [set(circle) for circle in {circle for circle in found if circle}]


def imported(path: Path) -> set[str]:
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_imports_point_from_orchestrate_to_search_to_qalof():
    wrong = {
        name_of(path): forbidden
        for path in SOURCES
        if (forbidden := imported(path) & FORBIDDEN[path.relative_to(ROOT).parts[0]])
    }
    assert not wrong


def test_a_circle_is_found_wherever_it_is_entered():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e2"}, "e2": {"e"}}
    assert sorted(map(sorted, circles(graph))) == [["b", "c"], ["e", "e2"]]


def test_no_files_import_each_other_in_a_circle():
    assert not circles(GRAPH)


def test_no_room_imports_a_higher_one():
    upward = {(name, other) for name, others in GRAPH.items() for other in others if floor_of(other) > floor_of(name)}
    assert upward == EXCEPTIONS


def test_a_command_imports_no_other_command():
    """Shared parts stand in ``jobs/shared``; a sweep may import ``train``, since trainings are what it runs."""
    crossing = {
        (name, other)
        for name, others in GRAPH.items()
        for other in others
        if command_of(name) and command_of(other) and command_of(name) != command_of(other)
    }
    assert {(command_of(name), command_of(other)) for name, other in crossing} == {("sweep", "train")}


def command_of(module: str) -> str | None:
    """The folder of the command that a module belongs to."""
    parts = module.split(".")
    inside = parts[:2] == ["orchestrate", "jobs"] and len(parts) > 2 and parts[2] != "shared"
    return parts[2] if inside and f"orchestrate.jobs.{parts[2]}.job" in MODULES else None


def test_every_room_is_there():
    floors = {floor_of(name) for name in MODULES}
    named = {(index, place) for index, wing in enumerate(ROOMS.values()) for place in range(len(wing.split()))}
    assert named <= floors


def test_every_module_says_what_it_is_for():
    assert not [name_of(path) for path in SOURCES if parsed(path).body and not ast.get_docstring(parsed(path))]


def test_tests_of_orchestrate_stand_in_its_rooms():
    """``tests/orchestrate/jobs/train/`` tests ``orchestrate/jobs/train/``; ``orchestrate/`` itself is no room."""
    tests = ROOT / "tests"
    folders = {path.parent.relative_to(tests) for path in (tests / "orchestrate").rglob("test_*.py")}
    unlike = {str(folder) for folder in folders if not any((ROOT / folder).glob("[!_]*.py"))}
    assert not unlike, "a test stands in the folder of the room that it tests"


FRAGMENTS = {
    "Of", "By", "From", "In", "On", "At", "With", "For", "To", "After", "Over", "Per", "As", "None", "Else", "Also",
}  # fmt: skip
"""No docstring begins with one of these: what follows is part of a sentence that is not there."""
NAMES = {"The", "A", "An", "Whether", "How", "What", "Why", "Where", "Which"}
"""A function does something, so its docstring does not begin with one of these; a property has a value."""


def docstrings(path: Path) -> dict[str, bool]:
    """The docstrings of modules, classes, functions and fields, each with whether it is a function's."""
    found = {}
    for node in nodes(path):
        does = isinstance(node, ast.FunctionDef) and not any("property" in ast.unparse(d) for d in node.decorator_list)
        for index, each in enumerate(getattr(node, "body", ()) if isinstance(getattr(node, "body", ()), list) else ()):
            if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
                found[str(each.value.value)] = does and index == 0
    return found


def test_a_docstring_begins_a_sentence():
    wrong = {
        f"{path.relative_to(ROOT)}: {' '.join(text.split())[:60]}"
        for path in SOURCES
        for text, of_function in docstrings(path).items()
        if text.split()[:1] and text.split()[0] in FRAGMENTS | (NAMES if of_function else set())
    }
    assert not wrong
