"""The blocks of a model by what holds its sites, and running a module of it by another function for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from qalof.model.sites import site_path
from qalof.model.switchable import SwitchableModel

Run = Callable[..., Any]


def blocks_of(model: SwitchableModel) -> list[nn.Module]:
    """Return the blocks that hold sites: for each, the outermost entry of a list of modules on its path."""
    found: dict[nn.Module, None] = {}
    for site in model.sites:
        module: nn.Module = model.model
        for step in site_path(model.model, site).split("."):
            inside = isinstance(module, nn.ModuleList)
            module = module.get_submodule(step)
            if inside:
                found[module] = None
                break
    return list(found)


def block_places(blocks: Sequence[nn.Module]) -> dict[nn.Module, int]:
    """Return the index of the block that holds each module, the blocks themselves included."""
    return {module: index for index, block in enumerate(blocks) for module in block.modules()}


@contextmanager
def run_by(module: nn.Module, run: Run) -> Iterator[None]:
    """Let ``module`` run by another function within the block; its hooks stay."""
    module.__dict__["forward"] = run
    try:
        yield
    finally:
        del module.__dict__["forward"]


def noting(module: nn.Module, order: list[tuple[nn.Module, Any]]) -> Run:
    """Return a function that runs ``module`` and adds it to ``order`` with its output."""
    run = module.forward

    def noted(*args: Any, **kwargs: Any) -> Any:
        output = run(*args, **kwargs)
        order.append((module, output))
        return output

    return noted
