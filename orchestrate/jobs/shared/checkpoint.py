"""A checkpoint that a command works on, opened in the driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrate.config.build import check_length
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.errors import BadInputError


def open_checkpoint(folder: str, other: Mapping[str, Any] | None = None) -> OpenCheckpoint:
    """Load a checkpoint and its task, or the ``other`` one that it is to be scored on.

    Raises:
        BadInputError: the checkpoint is missing, damaged or packed, or its base model cannot be had.
    """
    opened = OpenCheckpoint(folder, other)
    if opened.is_packed:
        raise BadInputError(
            f"{folder} is a packed model, which has one bitmap and no adapters: only `qalof evaluate` takes it; give "
            "the checkpoint that it was made of"
        )
    model = opened.model
    check_length(opened.task, model.model)
    return opened
