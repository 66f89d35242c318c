"""The YAML of configs and overrides, in which a path is always read as a path.

YAML reads ``20240115_120000`` and ``1e5`` as numbers, ``on`` as a truth value and ``{a}`` as a mapping.  Where the key
says that a path is meant (:data:`PATH_NAMES`), a plain value is its text as it stands; what is quoted, and ``null``,
are YAML's.  In an override everything behind the ``=`` of such a key is the path, quotes and braces too; only ``null``,
where a setting may be unset, unsets it (``./null`` is a file of that name).

Names are enough to decide this: a test compares them with the types of all settings, and sees that a name means a path
everywhere or nowhere.  Following the types along the keys was rejected: a pipeline's steps, a sweep's space and a
scale's overlays hold settings of any class.
"""

from __future__ import annotations

import re
import typing
from functools import cache
from types import UnionType
from typing import Any

import yaml

from qalof.paths import annotations_of

PATH_NAMES = frozenset(
    {
        "antonyms",
        "checkpoint",
        "data",
        "encoder",
        "latency",
        "masked_lm",
        "root",
        "source",
        "synonyms",
        "targets",
        "validation_data",
        "scale",
    }
)
"""The last parts of the keys of all settings that are paths."""

TEXT_NAMES = frozenset(
    {"command", "experiment", "init", "label_column", "metric", "name", "prefix", "sequence", "split",
     "strategy", "subset", "text_column", "title", "train_split", "uri", "validation_split"}
)  # fmt: skip
"""The last parts of the keys of all other settings that hold a text of any content and nothing else."""

_NULL, _TEXT = "tag:yaml.org,2002:null", "tag:yaml.org,2002:str"


def is_path(key: object) -> bool:
    """Return whether a dotted key names a path, or an item of a list of paths."""
    return _last_name(key) in PATH_NAMES


def _last_name(key: object) -> str:
    """Return the last part of a dotted key that is not an index of a list."""
    parts = [part for part in str(key).split(".") if not part.isdigit()]
    return parts[-1] if parts else ""


class FileLoader(yaml.SafeLoader):
    """A loader that keeps paths, texts and dates as they stand, and refuses a key that stands twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping like the safe loader, once all keys are found different; YAML's own silently takes the
        last.
        """
        first: dict[tuple[str, Any], int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value != "<<" and (key.tag, key.value) in first:
                earlier = first[key.tag, key.value]
                raise yaml.YAMLError(f"key {key.value!r} stands twice in one mapping, in lines {earlier} and {line}")
            first[key.tag, key.value] = line
            if _last_name(key.value) in PATH_NAMES | TEXT_NAMES:
                _as_text(value)
        constructed: dict[Any, Any] = super().construct_mapping(node, deep)
        return constructed


class OverrideLoader(FileLoader):
    """A loader for overrides, for which ``1e-3`` is a number too: on a command line nobody writes ``1.0e-3``."""


FileLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag != "tag:yaml.org,2002:timestamp"]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
OverrideLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def override_value(kind: type, key: str, value: str) -> Any:
    """Read what the text behind ``key=`` means in a config of class ``kind``.

    Raises:
        yaml.YAMLError: it is neither a path nor a text, and is not YAML.
    """
    # a pipeline's steps hold settings of classes that are not below its own, of which only the name is known
    may_be_unset = _texts_of(kind).get(key.rpartition(".")[2], True if _last_name(key) in TEXT_NAMES else None)
    if is_path(key):
        return None if value == "null" and may_be_unset is not False else value
    try:
        parsed = yaml.load(value, Loader=OverrideLoader)
    except yaml.YAMLError:
        if may_be_unset is None:
            raise
        return value
    if may_be_unset is None or isinstance(parsed, str) or (parsed is None and may_be_unset):
        return parsed
    return value


def _as_text(node: yaml.Node) -> None:
    """Turn the plain scalars of a value, or of a list, into texts; those that mean null stay so."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _as_text(item)
    elif isinstance(node, yaml.ScalarNode) and node.style is None and node.tag != _NULL:
        node.tag = _TEXT


@cache
def _texts_of(kind: type) -> dict[str, bool]:
    """Return the names of the fields below ``kind`` that hold only a text, and whether they may be unset."""
    texts: dict[str, bool] = {}
    others: set[str] = set()
    seen: set[Any] = set()

    def visit(annotation: Any) -> None:
        if isinstance(annotation, type) and annotation not in seen:
            seen.add(annotation)
            for name, inner in annotations_of(annotation).items():
                kinds = _kinds(inner)
                if kinds <= {str, type(None)}:
                    texts[name] = texts.get(name, False) or type(None) in kinds
                else:
                    others.add(name)
                visit(inner)
        for inner in typing.get_args(annotation):
            visit(inner)

    visit(kind)
    return {name: unset for name, unset in texts.items() if name not in others}


def _kinds(annotation: Any) -> set[Any]:
    """Return the types that a value may have, including those of a literal's values."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kinds(inner[0])
    if origin is typing.Literal:
        return {type(value) for value in inner}
    if origin in (typing.Union, UnionType):
        return set().union(*map(_kinds, inner))
    return {str if isinstance(annotation, type) and issubclass(annotation, str) else annotation}
