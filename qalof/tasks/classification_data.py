"""The files of text classification.

The data is one JSON object ``{"text", "label"}`` per line, ``label`` an index into the names of ``labels.json``: a list
of names beside the data, or, there or one folder up, a map from the data folder's name to its list.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from qalof.errors import BadInputError
from qalof.files import read_json
from qalof.home import expanded
from qalof.reading import exists, parse_json, read_lines
from qalof.tiny import REVIEWS_DIR

LABELS_FILE = "labels.json"

_FILE_NAMES = {"train": ("train",), "validation": ("validation", "dev")}


class LabeledText(NamedTuple):
    """One example; ``label`` is an index into the label names."""

    text: str
    label: int


def find_file(source: str, split: str) -> Path:
    """Return the file of a split: ``source`` itself if it is one, otherwise ``<split>.jsonl`` in that folder.

    Raises:
        BadInputError: There is no such file.
    """
    path = existing(source)
    if path.is_file():
        return path
    for name in _FILE_NAMES[split]:
        if (path / f"{name}.jsonl").is_file():
            return path / f"{name}.jsonl"
    wanted = " or ".join(f"{name}.jsonl" for name in _FILE_NAMES[split])
    raise BadInputError(f"data folder {path} must hold {wanted} for the {split} split")


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


def label_names(folder: str | Path, stem: str = "") -> tuple[str, ...]:
    """Return the names of the classes of the data in ``folder``, from ``labels.json`` there or one folder up.

    Args:
        folder: the absolute folder, whose name is the key in a map of names.
        stem: the stem of the data file, a second key: one map serves ``mr/train.jsonl`` and ``mr.jsonl``.

    Raises:
        BadInputError: There is no such file, it has no entry for this data, or it has fewer than two names.
    """
    folder = Path(folder)
    for place in (folder / LABELS_FILE, folder.parent / LABELS_FILE):
        if not place.is_file():
            continue
        stored = read_json(place, "label names")
        names = stored.get(folder.name, stored.get(stem)) if isinstance(stored, Mapping) else stored
        if isinstance(names, list) and len(names) > 1 and all(isinstance(name, str) for name in names):
            return tuple(names)
        raise BadInputError(f"{place} must hold a list of two or more names for {folder.name!r}: got {names!r}")
    raise BadInputError(f"data in {folder} needs its label names: put {LABELS_FILE}, a list of names, there")


def read_texts(path: str | Path, labels: int) -> list[LabeledText]:
    """Read ``{"text", "label"}`` lines; blank lines are skipped.

    Raises:
        BadInputError: The file is missing or empty, a line is not JSON, a field is missing or empty, or a label is
            outside [0, labels).
    """
    lines = read_lines(Path(path), "data file")
    examples = [_parse(line, labels, f"{path} line {number}") for number, line in lines if line.strip()]
    if not examples:
        raise BadInputError(f"a split must hold at least one text: {path} holds none")
    return examples


def _parse(line: str, labels: int, where: str) -> LabeledText:
    row = parse_json(line, where)
    for field in LabeledText._fields:
        if not isinstance(row, dict) or field not in row:
            raise BadInputError(f'{where} must read like {{"text": "...", "label": 0}}: {field!r} is missing')
    text, label = row["text"], row["label"]
    if not isinstance(text, str) or not text.strip():
        raise BadInputError(f"{where}: text must be a string that is not empty: got {text!r}; leave the line out")
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < labels:
        law = f"label must be a whole number from 0 to {labels - 1}"
        raise BadInputError(f"{where}: {law}: got {label!r}; see {LABELS_FILE}")
    return LabeledText(text, label)
