"""A checkpoint that a command works on, opened in the driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrate.config.build import check_length
from qalof.checkpoint.opening import is_packed, load, task_of
from qalof.errors import BadInputError
from qalof.tasks.base import Task


@dataclass(frozen=True)
class Opened:
    """A checkpoint that the driver has loaded, which shows that it is whole and what it holds."""

    model: Any  # a SwitchableModel; where it is to be evaluated, it may be a PackedModel too
    task: Task


def open_checkpoint(folder: str, other: Mapping[str, Any] | None = None) -> Opened:
    """Load a checkpoint and its task, or the ``other`` one that it is to be scored on.

    Raises:
        BadInputError: the checkpoint is missing, damaged or packed, or its base model cannot be had.
    """
    if is_packed(folder):
        raise BadInputError(
            f"{folder} is a packed model, which has one bitmap and no adapters: only `qalof evaluate` takes it; give "
            "the checkpoint that it was made of"
        )
    opened = Opened(load(folder), task_of(folder, other))
    check_length(opened.task, opened.model.model)
    return opened
