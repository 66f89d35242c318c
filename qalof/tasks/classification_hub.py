"""Labeled texts of the model hub, such as ``fancyzhx/ag_news`` or ``stanfordnlp/sst2``.

A data set without a validation split is scored on its test split where ``validation`` is asked for.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from typing import Any

from qalof.errors import BadInputError
from qalof.home import expanded
from qalof.hub import load_rows
from qalof.reading import exists
from qalof.tasks.class_labels import Columns, Rows

_OTHER_NAMES = {"validation": ("test",)}


def is_hub_name(source: str) -> bool:
    """Return whether ``source`` reads like ``owner/name`` and is not a path of this machine."""
    owner, slash, name = source.partition("/")
    looks = bool(slash and owner and name) and "/" not in name and owner[0] not in ".~" and not name.endswith(".jsonl")
    return looks and not exists(expanded(source))


def hub_rows(source: str, subset: str | None, split: str, limit: int | None, columns: Columns) -> Rows:
    """Return the first ``limit`` rows of a split, in the order of the data set, and the names of its classes where it
    has them.

    Args:
        source: a name on the hub.
        subset: one of the subsets of a data set that has several.
        split: the name of a split.
        limit: None for all.
        columns: where texts and labels stand.

    Raises:
        BadInputError: The data set, the split or a column does not exist.
    """
    found = _data_set(source, subset)
    names = (split, *_OTHER_NAMES.get(split, ()))
    name = next((name for name in names if name in found), None)
    if name is None:
        raise BadInputError(f"data set {source} must have a split {' or '.join(names)}: it has {sorted(found)}")
    where = f"data set {source}, split {name}"
    rows = [(f"{where}, row {number}", row) for number, row in enumerate(islice(found[name], limit), 1)]
    if not rows:
        raise BadInputError(f"a split must hold at least one text: {where} holds none")
    return Rows(rows, hub_names(source, subset, columns))


def hub_names(source: str, subset: str | None, columns: Columns) -> tuple[str, ...] | None:
    """Return the names that a data set has for the numbers in its column of labels; None where it has none.

    Raises:
        BadInputError: The data set or a column does not exist.
    """
    features = next(iter(_data_set(source, subset).values())).features
    _, label = columns.of(features, f"data set {source}")
    names = getattr(features[label], "names", None)
    return tuple(names) if names else None


@lru_cache(maxsize=2)
def _data_set(source: str, subset: str | None) -> Any:
    return load_rows(source, None, subset)
