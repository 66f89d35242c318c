"""A checkpoint is opened here: its model, and the task that it was trained for.

An :class:`OpenCheckpoint` verifies, reads and describes a folder once, however often its manifest, model or task is
used.  Another process opens it again: only the name of the folder is sent there.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

from qalof.checkpoint.manifest import Described, describe, read_manifest
from qalof.checkpoint.model import rebuild
from qalof.digests import content_digest
from qalof.errors import BadInputError
from qalof.export.packed import LAYOUT_FILE
from qalof.export.packed_load import read_layout
from qalof.export.packed_model import PackedModel
from qalof.files import MANIFEST, digest
from qalof.model.switchable import SwitchableModel
from qalof.quantization.scheme import QuantizationScheme, TensorScheme
from qalof.reading import is_file
from qalof.tasks.base import Task
from qalof.tasks.classification import ClassificationTask
from qalof.tasks.factory import make_task


class OpenCheckpoint:
    """A checkpoint, or a packed folder, whose parts are read on first use, and only once.

    A change of the weights of :attr:`runnable` affects every user of this object; :meth:`fresh_model` gives a separate
    model.

    Args:
        folder: the folder of the checkpoint, or of a packed model, which runs only at its own bitmap.
        other: ``name`` and ``settings`` of a task in place of the one that the checkpoint was trained for.
    """

    def __init__(self, folder: str | Path, other: Mapping[str, Any] | None = None) -> None:
        self.folder, self.other = Path(folder), other

    @classmethod
    def of(cls, checkpoint: str | Path | OpenCheckpoint, other: Mapping[str, Any] | None = None) -> OpenCheckpoint:
        """Return ``checkpoint`` itself where it is open already, with its own task."""
        return checkpoint if isinstance(checkpoint, OpenCheckpoint) else cls(checkpoint, other)

    def __reduce__(self) -> Any:
        return type(self), (self.folder, self.other)

    @cached_property
    def is_packed(self) -> bool:
        """Whether the folder is a packed model's."""
        return is_packed(self.folder)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The description of the folder, whose files are all checked: the manifest, or the layout of a packed model.

        Raises:
            BadInputError: no such folder, a damaged or newer one, or one of another range convention.
        """
        return read_layout(self.folder) if self.is_packed else read_manifest(self.folder)

    @cached_property
    def described(self) -> Described:
        """The manifest of a checkpoint, as types.

        Raises:
            BadInputError: as :attr:`manifest`, or a packed folder.
        """
        # a packed folder's layout is no manifest, and reading it as one says so
        return describe(read_manifest(self.folder) if self.is_packed else self.manifest, self.folder)

    def drop_model(self) -> None:
        """Free the model's memory, where other processes do the work; it is loaded again on the next use."""
        self.__dict__.pop("runnable", None)

    @property
    def model(self) -> SwitchableModel:
        """The model of a checkpoint, in eval mode, at full precision until a bitmap is set.

        Raises:
            BadInputError: as :attr:`manifest`, a base that cannot be had or is another one, or a packed folder.
        """
        if isinstance(self.runnable, PackedModel):
            raise BadInputError(f"{self.folder} is a packed model: give the checkpoint that it was made of")
        return self.runnable

    @cached_property
    def runnable(self) -> SwitchableModel | PackedModel:
        """The model that a task evaluates: that of a checkpoint, or a packed one, which runs only at its own bitmap.

        Raises:
            BadInputError: as :attr:`model`, but for packed folders.
        """
        return PackedModel.load(self.folder, self.manifest) if self.is_packed else rebuild(self.described)

    @cached_property
    def task(self) -> Task:
        """The task that it was trained for, or the ``other`` one, with the tokenizer of the checkpoint's base.

        Raises:
            BadInputError: as :attr:`manifest`; also a checkpoint that names no task, or another task that needs
                another head.
        """
        trained = self.manifest["extra"].get("task")
        described = trained if self.other is None else _with_trained_classes(self.other, trained)
        if described is None:
            raise BadInputError(
                f"checkpoint {self.folder} must name its task to be evaluated: it does not; save it by `qalof train`"
            )
        # a packed folder with a tokenizer needs no base
        own = self.is_packed and (self.folder / "tokenizer.json").is_file()
        base = self.manifest["base"]
        task = make_task(described["name"], described["settings"], str(self.folder) if own else base["source"])
        if (task.head, task.labels) != (base["head"], base["labels"]):
            raise BadInputError(
                f"task {task.name} needs a {_head(task.head, task.labels)} head: checkpoint {self.folder} has a "
                f"{_head(base['head'], base['labels'])} one; take a checkpoint of a task with that head"
            )
        return task

    def with_task(self, other: Mapping[str, Any]) -> OpenCheckpoint:
        """Return the same checkpoint with another task; what is loaded already is shared."""
        twin = copy(self)
        twin.other = other
        for name in ("task", "fingerprint"):
            twin.__dict__.pop(name, None)
        return twin

    def fresh_model(
        self, quantization: QuantizationScheme | None = None, embedding: TensorScheme | None = None
    ) -> SwitchableModel:
        """Load a separate model of the checkpoint; the arguments are those of :func:`load`.

        Raises:
            BadInputError: as :attr:`model`.
        """
        return rebuild(self.described, quantization, embedding)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256, in hex, of what an evaluation depends on apart from bitmap and limit: weights, task and data.

        Raises:
            BadInputError: as :attr:`task`, or data that cannot be read.
        """
        task = self.task  # says what is wrong with a checkpoint that is not there
        return content_digest(digest(self.folder / MANIFEST), task.fingerprint())


def load(
    folder: str | Path, quantization: QuantizationScheme | None = None, *, embedding: TensorScheme | None = None
) -> SwitchableModel:
    """Load the model of a checkpoint, in eval mode, at full precision.

    Args:
        folder: of the checkpoint.
        quantization: other quantizers than the model was trained with; None for its own.
        embedding: makes the input embedding a site with these quantizers.

    Raises:
        BadInputError: no such checkpoint, a damaged or newer one, another range convention, or a base that cannot be
            had or is another one.
    """
    return OpenCheckpoint(folder).fresh_model(quantization, embedding)


def load_any(folder: str | Path) -> SwitchableModel | PackedModel:
    """Load the model of a checkpoint, or of a packed folder, which runs only at its own bitmap.

    Raises:
        BadInputError: See :func:`load`.
    """
    return OpenCheckpoint(folder).runnable


def is_packed(folder: str | Path) -> bool:
    """Return whether ``folder`` holds a packed model, and not a checkpoint or something else."""
    return is_file(Path(folder) / LAYOUT_FILE)


def task_of(folder: str | Path, other: Mapping[str, Any] | None = None) -> Task:
    """Make the task that a checkpoint was trained for, without its model, or another one to score it on.

    Args:
        folder: the checkpoint.
        other: ``name`` and ``settings`` of another task, which gets the checkpoint's tokenizer.

    Raises:
        BadInputError: as :attr:`OpenCheckpoint.task`.
    """
    return OpenCheckpoint(folder, other).task


def _with_trained_classes(other: Mapping[str, Any], trained: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return another task, with the classes in the order that the head was trained for, unless it has an order."""
    classes = (trained or {}).get("settings", {}).get("classes")
    settings = other["settings"]
    if classes is None or other["name"] != ClassificationTask.name or settings.get("classes") is not None:
        return other
    return {**other, "settings": {**settings, "classes": classes}}


def _head(kind: str, labels: int | None) -> str:
    return f"{kind}" if labels is None else f"{kind} ({labels} labels)"
