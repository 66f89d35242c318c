"""Opening what training left behind: the model, and the task that it was trained for."""

from __future__ import annotations

from pathlib import Path

from qalof.errors import BadInputError
from qalof.model.switchable import SwitchableModel, read_manifest
from qalof.tasks.base import Task
from qalof.tasks.factory import make_task


def load(folder: str | Path) -> SwitchableModel:
    """The model of a checkpoint, in eval mode, at pass-through.

    Raises:
        BadInputError: no such checkpoint, a damaged or newer one, or a base that cannot be had.
    """
    return SwitchableModel.load(folder).eval()


def task_of(folder: str | Path) -> Task:
    """The task that a checkpoint was trained for, without its model.

    Raises:
        BadInputError: as :func:`load`; also a checkpoint that names no task.
    """
    manifest = read_manifest(Path(folder))
    described = manifest["extra"].get("task")
    if described is None:
        raise BadInputError(
            f"checkpoint {folder} must name its task to be evaluated: it does not; save it by `qalof train`"
        )
    return make_task(described["name"], described["settings"], manifest["base"]["source"])
