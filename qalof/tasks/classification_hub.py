"""Labeled texts of the model hub: data sets with a ``text`` column and a ``label`` column that names its classes.

``fancyzhx/ag_news``, ``stanfordnlp/imdb`` and most others have this form.  A data set without a validation split, such
as these two, is scored on its test split.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from qalof.errors import BadInputError
from qalof.home import expanded
from qalof.hub import load_rows
from qalof.reading import exists

SPLITS = {"train": ("train",), "validation": ("validation", "test")}
"""The splits in which the examples are looked for, in order."""


def is_hub_name(source: str) -> bool:
    """Return whether ``source`` reads like ``owner/name`` and is not a path of this machine."""
    owner, slash, name = source.partition("/")
    looks = bool(slash and owner and name) and "/" not in name and owner[0] not in ".~" and not name.endswith(".jsonl")
    return looks and not exists(expanded(source))


def hub_texts(source: str, split: str) -> list[tuple[str, int]]:
    """Return texts with the index of their class, in the order of the data set.

    Args:
        source: a name on the hub.
        split: ``train`` or ``validation``; see :data:`SPLITS`.

    Raises:
        BadInputError: The data set or the split does not exist, a text is empty, or a label is not a class.
    """
    found, classes = _data_set(source), len(hub_labels(source))
    name = next((name for name in SPLITS[split] if name in found), None)
    if name is None:
        raise BadInputError(f"data set {source} must have a split {' or '.join(SPLITS[split])}: it has {sorted(found)}")
    rows = [(row["text"], row["label"]) for row in found[name]]
    for number, (text, label) in enumerate(rows, 1):
        if not isinstance(text, str) or not text.strip() or not 0 <= label < classes:
            raise BadInputError(
                f"data set {source}, split {name}, row {number} must have a text and a label below {classes}: "
                f"got {text!r} and {label!r}; export the data to a folder without that row"
            )
    if not rows:
        raise BadInputError(f"a split must hold at least one text: {source}, split {name}, holds none")
    return rows


def hub_labels(source: str) -> tuple[str, ...]:
    """Return the names of the classes.

    Raises:
        BadInputError: The data set does not exist, or it lacks one of the two columns.
    """
    found = _data_set(source)
    features = next(iter(found.values())).features
    names = getattr(features.get("label"), "names", None)
    if "text" not in features or not names or len(names) < 2:
        raise BadInputError(
            f"data set {source} must have a column text and a column label with two or more named classes: "
            f"it has {', '.join(features)}; export it to a folder of .jsonl files with labels.json"
        )
    return tuple(names)


@lru_cache(maxsize=2)
def _data_set(source: str) -> Any:
    return load_rows(source, None)
