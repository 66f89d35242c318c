"""Whoever calls the public API may write a path as text."""

import importlib
import inspect
import pkgutil
import re

import pytest

import orchestrate
import orchestrate.jobs.run
import orchestrate.pipeline.run
import orchestrate.report
import qalof
import qalof.checkpoint.manifest
import qalof.export
import qalof.tasks
import qalof.training
import search

MODULES = ["qalof.checkpoint.opening", "qalof.model.switchable", "orchestrate.jobs.search.on_tune",
           "orchestrate.cluster.evaluation_pool"]  # fmt: skip
FUNCTIONS = [
    qalof.checkpoint.manifest.read_manifest,
    orchestrate.jobs.run.execute,
    orchestrate.pipeline.run.run_pipeline,
    orchestrate.report.write_report,
]


MADE_BY_FUNCTIONS = {"GeneratedData"}
"""Records that only a function makes, which takes the text."""


def functions():
    """Public functions, constructors and methods of the three packages' public names and of the modules above."""
    packages = [qalof.export, qalof.tasks, qalof.training, search]
    names = [m.name for package in packages for m in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]
    modules = [importlib.import_module(name) for name in [*names, *MODULES]]
    objects = [getattr(wing, name) for wing in (qalof, search, orchestrate) for name in wing.__all__]
    for module in modules:  # what is defined there, and not what is used there
        own = [value for name, value in vars(module).items() if not name.startswith("_")]
        objects += [value for value in own if getattr(value, "__module__", None) == module.__name__]
    ours = {one for one in objects if inspect.isclass(one) or inspect.isfunction(one)}
    found = {one for one in ours if inspect.isfunction(one)} | set(FUNCTIONS)
    for owner in ours - found:
        if owner.__name__ in MADE_BY_FUNCTIONS:
            continue
        for name, value in vars(owner).items():
            value = getattr(value, "__func__", value)
            if inspect.isfunction(value) and (not name.startswith("_") or name == "__init__"):
                found.add(value)
    return sorted(found, key=lambda function: (function.__module__, function.__qualname__))


def paths_of(function):
    """Its parameters that hold a path, by annotation."""
    hints = getattr(function, "__annotations__", {})
    return {
        name: str(hint)
        for name, hint in hints.items()
        if name != "return" and re.search(r"\bPath\b", str(hint)) and "Callable" not in str(hint)
    }


def test_there_are_paths_to_look_at():
    assert sum(bool(paths_of(function)) for function in functions()) >= 15


@pytest.mark.parametrize(
    "function", [f for f in functions() if paths_of(f)], ids=lambda f: f"{f.__module__}.{f.__qualname__}"
)
def test_every_path_may_be_text(function):
    """mypy, which the tests of the house run, then refuses a body that treats it as a Path without making one of it."""
    for name, hint in paths_of(function).items():
        assert "str" in hint, f"{name}: {hint}"
