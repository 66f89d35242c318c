"""Opening what training left behind: the model, and the task that it was trained for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qalof.checkpoint.manifest import read_manifest
from qalof.errors import BadInputError
from qalof.export.packed import LAYOUT_FILE
from qalof.export.packed_load import read_layout
from qalof.export.packed_model import PackedModel
from qalof.model.switchable import SwitchableModel
from qalof.tasks.base import Task
from qalof.tasks.factory import make_task


def load(folder: str | Path) -> SwitchableModel:
    """The model of a checkpoint, in eval mode, at pass-through.

    Raises:
        BadInputError: no such checkpoint, a damaged or newer one, or a base that cannot be had.
    """
    return SwitchableModel.load(folder).eval()


def load_any(folder: str | Path) -> SwitchableModel | PackedModel:
    """The model of a checkpoint, or of a packed folder, which runs at its own bitmap alone.

    Raises:
        BadInputError: as :func:`load`.
    """
    return PackedModel.load(Path(folder)) if is_packed(folder) else load(folder)


def is_packed(folder: str | Path) -> bool:
    """Whether ``folder`` is a packed model's; a checkpoint's or none else."""
    return (Path(folder) / LAYOUT_FILE).is_file()


def task_of(folder: str | Path, other: Mapping[str, Any] | None = None) -> Task:
    """The task that a checkpoint was trained for, without its model; or another one to score it on.

    Args:
        folder: the checkpoint.
        other: ``name`` and ``settings`` of another task, which gets the checkpoint's tokenizer.

    Raises:
        BadInputError: as :func:`load`; also a checkpoint that names no task, or another task that needs another head.
    """
    manifest: dict[str, Any] = read_layout(Path(folder)) if is_packed(folder) else read_manifest(Path(folder))
    described = other or manifest["extra"].get("task")
    if described is None:
        raise BadInputError(
            f"checkpoint {folder} must name its task to be evaluated: it does not; save it by `qalof train`"
        )
    # a packed folder that has its tokenizer needs no base
    own = is_packed(folder) and (Path(folder) / "tokenizer.json").is_file()
    base = manifest["base"]
    task = make_task(described["name"], described["settings"], str(folder) if own else base["source"])
    if (task.head, task.labels) != (base["head"], base["labels"]):
        raise BadInputError(
            f"task {task.name} needs a {_head(task.head, task.labels)} head: checkpoint {folder} has a "
            f"{_head(base['head'], base['labels'])} one; take a checkpoint of a task with that head"
        )
    return task


def _head(kind: str, labels: int | None) -> str:
    return f"{kind}" if labels is None else f"{kind} ({labels} labels)"
