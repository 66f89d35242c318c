"""Labelled texts of the model hub: a data set with a ``text`` column and a ``label`` column that knows its classes.

So are ``fancyzhx/ag_news``, ``stanfordnlp/imdb`` and most others.  A data set that has no validation split, as these
two, is scored on its test split.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from qalof.errors import BadInputError
from qalof.home import expanded
from qalof.hub import load_rows
from qalof.reading import exists

SPLITS = {"train": ("train",), "validation": ("validation", "test")}
"""Where the examples of a split are looked for, in order."""


def is_hub_name(source: str) -> bool:
    """Whether ``source`` reads like ``owner/name`` and is nothing on this machine."""
    owner, slash, name = source.partition("/")
    looks = bool(slash and owner and name) and "/" not in name and owner[0] not in ".~" and not name.endswith(".jsonl")
    return looks and not exists(expanded(source))


def hub_texts(source: str, split: str) -> list[tuple[str, int]]:
    """Texts with the index of their class, in the data set's order.

    Args:
        source: a name on the hub.
        split: ``train`` or ``validation``; see :data:`SPLITS`.

    Raises:
        BadInputError: no such data set, no such split, an empty text, or a label that is no class.
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
    """Names of the classes.

    Raises:
        BadInputError: no such data set, or one without the two columns.
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
