"""The files of text classification.

The data is one JSON object per line, such as ``{"text", "label"}``.  A label is a name, or an index into the names of
``labels.json``: a list of names beside the data, or, there or one folder up, a map from the data folder's name to its
list.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qalof.errors import BadInputError
from qalof.files import read_json
from qalof.home import expanded
from qalof.reading import exists, parse_json, read_lines
from qalof.tasks.class_labels import Rows
from qalof.tiny import REVIEWS_DIR

LABELS_FILE = "labels.json"

_OTHER_NAMES = {"validation": ("dev",)}


def find_file(source: str, split: str) -> Path:
    """Return the file of a split: ``source`` itself if it is one, otherwise ``<split>.jsonl`` in that folder.

    Raises:
        BadInputError: There is no such file.
    """
    path = existing(source)
    if path.is_file():
        return path
    names = [f"{name}.jsonl" for name in (split, *_OTHER_NAMES.get(split, ()))]
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        raise BadInputError(f"data folder {path} must hold {' or '.join(names)} for the {split} split")
    return found


def existing(source: str) -> Path:
    """Return the folder of the shipped reviews for ``tiny``, otherwise the path.

    Raises:
        BadInputError: The path does not exist.
    """
    path = REVIEWS_DIR if source == "tiny" else expanded(source)
    if not exists(path):
        raise BadInputError(
            f"classification data {source} does not exist; give a folder, a .jsonl file, or owner/name on the hub"
        )
    return path


def labels_file(source: str) -> Path | None:
    """Return the file that names the classes of local data, in its folder or one folder up; None where there is none.

    Raises:
        BadInputError: The data does not exist.
    """
    folder = _folder(source)
    return next((each / LABELS_FILE for each in (folder, folder.parent) if (each / LABELS_FILE).is_file()), None)


def read_names(source: str) -> tuple[str, ...] | None:
    """Return the names of the classes of local data, from ``labels.json`` beside it or one folder up.

    A file one folder up may have a list for each of several data sets, under the name of a folder or the stem of a
    file: one map serves ``mr/train.jsonl`` and ``mr.jsonl``.

    Returns:
        The names in their order; None where no file is there, or where one that serves several does not name this data.

    Raises:
        BadInputError: The data does not exist, or the file has fewer than two names for it.
    """
    file = labels_file(source)
    if file is None:
        return None
    stored, folder = read_json(file, "label names"), _folder(source)
    if isinstance(stored, Mapping):
        keys = [key for key in (folder.name, existing(source).stem) if key in stored]
        if not keys:
            return None
        stored = stored[keys[0]]
    if isinstance(stored, list) and len(stored) > 1 and all(isinstance(name, str) for name in stored):
        return tuple(stored)
    raise BadInputError(f"{file} must hold a list of two or more names for {folder.name!r}: got {stored!r}")


def file_rows(path: str | Path) -> list[tuple[str, Any]]:
    """Read the JSON of each line, with the words that name its place; blank lines are skipped.

    Raises:
        BadInputError: The file is missing or empty, or a line is not JSON.
    """
    lines = read_lines(Path(path), "data file")
    placed = [(f"{path} line {number}", line) for number, line in lines if line.strip()]
    if not placed:
        raise BadInputError(f"a split must hold at least one text: {path} holds none")
    return [(where, parse_json(line, where)) for where, line in placed]


def split_rows(source: str, split: str, limit: int | None = None) -> Rows:
    """Return the first ``limit`` rows of a split of local data, and the names that ``labels.json`` has for its numbers.

    Raises:
        BadInputError: See :func:`find_file`, :func:`file_rows` and :func:`read_names`.
    """
    return Rows(file_rows(find_file(source, split))[:limit], read_names(source))


def _folder(source: str) -> Path:
    path = Path(os.path.abspath(existing(source)))  # noqa: PTH100 - a link has other neighbors than its target
    return path.parent if path.is_file() else path
