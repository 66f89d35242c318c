"""What the labels of a data set mean: in which column they stand, and which class of a model each of them is.

A model has its classes in one order, and data sets have labels of their own: whole numbers that stand for names in
another order, names, or other words.  A label finds its class by name, so scoring a model on another data set never
takes one class for another because both have the same number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from qalof.errors import BadInputError

TEXT_COLUMNS = ("text", "sentence")
LABEL_COLUMNS = ("label",)
"""The columns that are taken where none is named, in order."""


class LabeledText(NamedTuple):
    """One example; ``label`` is an index into the names of the model's classes."""

    text: str
    label: int


@dataclass(frozen=True)
class Rows:
    """The rows of a split, as they stand in a file or on the hub.

    Attributes:
        rows: each with the words that name its place in an error.
        names: of the classes that whole numbers among the labels stand for; None where the data does not say.
    """

    rows: Sequence[tuple[str, Any]]
    names: tuple[str, ...] | None


@dataclass(frozen=True)
class Columns:
    """The columns of texts and labels; None takes the first usual one that a data set has."""

    text: str | None = None
    label: str | None = None

    def of(self, row: Any, where: str) -> tuple[str, str]:
        """Return the names of both columns in a data set whose first row is ``row``.

        Raises:
            BadInputError: The row has no such column.
        """
        text = _column(row, where, "text", TEXT_COLUMNS if self.text is None else (self.text,))
        return text, _column(row, where, "label", LABEL_COLUMNS if self.label is None else (self.label,))


@dataclass(frozen=True)
class Labels:
    """Which class each label is.

    Attributes:
        classes: the names of the model's classes, in its order.
        own: the names that whole numbers in this data set stand for, in order.
        label_map: the class of a label, or of a name of this data set, that is called otherwise there.
    """

    classes: Sequence[str]
    own: Sequence[str]
    label_map: Mapping[object, str] = field(default_factory=dict)

    def index_of(self, label: Any, where: str) -> int:
        """Return the index of a label's class.

        Raises:
            BadInputError: The label is none of the data set's, or means no class of the model.
        """
        name = self._name(label)
        found = self.label_map.get(str(label), self.label_map.get(name or "", name))
        if found in self.classes:
            return self.classes.index(found)
        if name is None or name not in self.own:
            told = f"a whole number from 0 to {len(self.own) - 1}, or one of {_list(self.own)}"
            mapped = f", or a key of label_map ({_list(self.label_map)})" if self.label_map else ""
            raise BadInputError(f"{where}: label must be {told}{mapped}: got {label!r}")
        raise BadInputError(
            f"{where}: a label must mean one of the classes {_list(self.classes)}: got {label!r}, which means "
            f"{found!r}; say which class that is by task.settings.label_map, such as {{{found}: {self.classes[0]}}}"
        )

    def _name(self, label: Any) -> str | None:
        if isinstance(label, str):
            return label
        whole = isinstance(label, int) and not isinstance(label, bool)
        return self.own[label] if whole and 0 <= label < len(self.own) else None


def labeled(rows: Rows, columns: Columns, labels: Labels) -> tuple[list[LabeledText], dict[str, int]]:
    """Read texts with the index of their class, and the class of every label that occurs.

    Raises:
        BadInputError: A row is no mapping, lacks a column, or has an empty text or a label without a class.
    """
    found: list[LabeledText] = []
    seen: dict[str, int] = {}
    named: tuple[str, str] | None = None
    for where, row in rows.rows:
        named = named or columns.of(row, where)
        text, label = (_cell(row, name, named, where) for name in named)
        if not isinstance(text, str) or not text.strip():
            raise BadInputError(f"{where}: text must be a string that is not empty: got {text!r}; leave the row out")
        index = seen[str(label)] = labels.index_of(label, where)
        found.append(LabeledText(text, index))
    return found, seen


def label_names_in(rows: Rows, columns: Columns) -> tuple[str, ...] | None:
    """Return the words that stand in the column of labels, in alphabetical order, which name the classes where nothing
    else does; None where a label is no word.

    Raises:
        BadInputError: See :func:`labeled`.
    """
    where, first = rows.rows[0]
    named = columns.of(first, where)
    values = {_cell(row, named[1], named, where) for where, row in rows.rows}
    return tuple(sorted(values)) if all(isinstance(value, str) for value in values) else None


def check_classes(names: tuple[str, ...], what: str) -> tuple[str, ...]:
    """Return ``names``, of which there are two or more, none of them twice.

    Raises:
        BadInputError: There are fewer, or one stands there twice.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise BadInputError(f"{what} must be two or more different names: got {_list(names)}")
    return names


def _cell(row: Any, column: str, named: tuple[str, str], where: str) -> Any:
    if not isinstance(row, Mapping) or column not in row:
        text, label = named
        raise BadInputError(f'{where} must read like {{"{text}": "...", "{label}": 0}}: {column!r} is missing')
    return row[column]


def _column(row: Any, where: str, what: str, names: Sequence[str]) -> str:
    columns = list(row) if isinstance(row, Mapping) else []
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise BadInputError(
            f"{where} must have a column {' or '.join(names)} with its {what}: {names[0]!r} is missing, it has "
            f"{_list(columns)}; name another one by task.settings.{what}_column"
        )
    return found


def _list(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "none"
