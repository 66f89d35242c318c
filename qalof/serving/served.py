"""A folder that holds all that a served checkpoint needs, and the model in it that answers requests.

    checkpoint/     the checkpoint, as it was trained
    base/           its base, where that is a folder or file of this machine; a base of the hub, and the shipped
                    one, keep their names
    manifest.json   the task, the names of a classifier's classes, and the checksums of all files

Nothing in it is code, and nothing is pickled: weights are safetensors, all else is JSON.
"""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from qalof.attacks.robustness.random_precision import DrawGranularity, RandomPrecision
from qalof.attacks.robustness.random_precision_model import RandomPrecisionModel
from qalof.bitmap import Bitmap
from qalof.bitmap_file import names_file
from qalof.checkpoint.manifest import describe, read_manifest
from qalof.checkpoint.model import rebuild
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.errors import BadInputError
from qalof.files import open_sealed, sealed_folder
from qalof.model.pretrained import TINY, HeadKind, load_tokenizer, resolve_source
from qalof.reading import is_folder
from qalof.serving.answers import ANSWERING, MAX_NEW_TOKENS, check_rows, served_task

FORMAT_VERSION = 1
KIND = "served-model"
CHECKPOINT, BASE = "checkpoint", "base"
_BASE_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
"""What is taken of a base's folder: no code, and nothing that is pickled."""


@dataclass(frozen=True)
class Request:
    """How a request is to be run."""

    bitmap: str = "32"
    """The bitmap, in any form of :meth:`Bitmap.parse` but that of a file; under random precision, where a draw stays
    with probability 1 - ``probability``."""
    random_precision: Sequence[str] = ()
    """The bitmaps to draw from; empty runs at ``bitmap``."""
    granularity: str = DrawGranularity.REQUEST
    """What shares one draw: ``request``, ``batch``, ``layer`` or ``token``."""
    probability: float = 1.0
    """The probability of leaving ``bitmap``."""
    seed: int = -1
    """The seed of the draws, by which the rows of a call are replayed as requests 0, 1, ...; -1 takes a new secret one
    per call, so nobody outside knows what will be drawn."""
    max_new_tokens: int = MAX_NEW_TOKENS
    """The most tokens that a language model writes per row."""


def write_served(folder: Path, checkpoint: Path) -> None:
    """Write a checkpoint as a folder that can be served anywhere.

    Raises:
        BadInputError: it is damaged or packed, it names no task, its data no longer names its classes, or its base has
            no weights in safetensors.
    """
    opened = OpenCheckpoint(checkpoint)
    described = opened.described  # says what is wrong with a packed folder
    task = opened.task
    labels = list(getattr(task, "label_names", ())) or None
    head = {"format_version": FORMAT_VERSION, "kind": KIND, "labels": labels}
    with sealed_folder(folder, head) as beside:
        shutil.copytree(checkpoint, beside / CHECKPOINT)
        if (source := _local(described.base.source)) is not None:
            (beside / BASE).mkdir()
            if not any(source.glob("*.safetensors")):
                raise BadInputError(
                    f"a base must have its weights in safetensors to be served: {source} has none; write it anew by "
                    "transformers' save_pretrained"
                )
            for pattern in _BASE_FILES:
                for file in source.glob(pattern):
                    shutil.copyfile(file, beside / BASE / file.name)


def _local(source: str) -> Path | None:
    """Return the folder of a base that lies on this machine; None for the shipped one and those of the hub."""
    path = Path(resolve_source(source))
    return path if source != TINY and is_folder(path) else None


class ServedModel:
    """The model of a served folder.  Requests of several threads run one after the other, since a model is at one
    bitmap at a time.

    Raises:
        BadInputError: the folder is missing or damaged, or its base cannot be had.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        manifest = open_sealed(folder, "served model", FORMAT_VERSION)
        stored = read_manifest(folder / CHECKPOINT)
        described = describe(stored, folder / CHECKPOINT)
        if is_folder(folder / BASE):
            described = replace(described, base=replace(described.base, source=str(folder / BASE)))
        task = stored["extra"]["task"]
        self.task = served_task(
            task["name"], task["settings"], load_tokenizer(described.base.source), manifest["labels"]
        )
        self.answering = ANSWERING[task["name"]]
        self.model = rebuild(described)
        self._lock = threading.Lock()

    def predict(self, rows: Sequence[Mapping[str, Any]], request: Request | None = None) -> list[dict[str, Any]]:
        """Answer each row.

        Args:
            rows: requests, with a text in each of the task's columns.
            request: how they are run; None at full precision.

        Returns:
            One answer per row, with the outputs of :data:`~qalof.serving.answers.ANSWERING`.

        Raises:
            BadInputError: a row lacks a column, a bitmap does not fit the model, or a number breaks its law.
        """
        request = request or Request()
        check_rows(rows, self.answering.columns)
        with self._lock:
            bitmap = self._bitmap(request.bitmap)
            if request.random_precision:
                return self._drawn(rows, request, bitmap)
            return self._at(bitmap, rows, request)

    def _bitmap(self, text: str) -> Bitmap:
        """Read a bitmap of a request, who may not name files of this machine."""
        if names_file(text):
            raise BadInputError(f"a request must write its bitmap out, such as w4a8: got {text!r}, which names a file")
        return Bitmap.parse(text, self.model.site_names)

    def _at(self, bitmap: Bitmap, rows: Sequence[Mapping[str, Any]], request: Request) -> list[dict[str, Any]]:
        with self.model.at(bitmap, eval=True):
            return self.answering.answer(self.task, self.model, rows, request.max_new_tokens) if rows else []

    def _drawn(self, rows: Sequence[Mapping[str, Any]], request: Request, stay: Bitmap) -> list[dict[str, Any]]:
        defense = RandomPrecision.of(
            self.model.site_names, [self._bitmap(text) for text in request.random_precision],
            granularity=request.granularity, seed=secrets.randbits(32) if request.seed == -1 else request.seed,
            probability=request.probability, baseline=None if request.probability == 1 else stay,
        )  # fmt: skip
        if defense.granularity is DrawGranularity.TOKEN:
            return self._by_token(rows, request, defense)
        groups: dict[Bitmap, list[int]] = {}
        for index in range(len(rows)):
            groups.setdefault(defense.bitmap(index), []).append(index)
        found: dict[int, dict[str, Any]] = {}
        for bitmap, indices in groups.items():
            found |= dict(zip(indices, self._at(bitmap, [rows[i] for i in indices], request), strict=True))
        return [found[index] for index in range(len(rows))]

    def _by_token(
        self, rows: Sequence[Mapping[str, Any]], request: Request, defense: RandomPrecision
    ) -> list[dict[str, Any]]:
        if self.model.base.head is HeadKind.SPAN:
            raise BadInputError(
                f"granularity token reads a text from left to right: got a {HeadKind.SPAN} head; take request or layer"
            )
        served = RandomPrecisionModel(self.model, defense)
        found = []
        with self.model.at(eval=True):
            for number, row in enumerate(rows):
                served.next_request = number
                found += self.answering.answer(self.task, served, [row], request.max_new_tokens)
        return found


def request_of(params: Mapping[str, Any] | None) -> Request:
    """Make a request of named values; those that are missing have their defaults.

    Raises:
        BadInputError: a name is unknown.
    """
    given = dict(params or {})
    known = asdict(Request())
    for name in given.keys() - known.keys():
        raise BadInputError(f"a request has no {name!r}; it has {', '.join(known)}")
    return Request(**{**known, **given})
