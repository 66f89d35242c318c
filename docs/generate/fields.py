"""Settings classes as plain rows: key, type, default, law and docstring of every field.

A settings class is a pydantic model or a dataclass.  The text of a field is the docstring line under it, in the class
that defines it or in a base of that class.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

WINGS = ("qalof", "search", "orchestrate")
BITMAP = int | str | list[int | str]
"""The type of what :meth:`qalof.bitmap.Bitmap.parse` reads."""


@dataclass(frozen=True)
class Key:
    """One key of a section; its value may be an object of the settings classes ``kinds``."""

    name: str
    type: str
    default: str
    law: str
    text: str
    kinds: tuple[type, ...] = field(default=())


def is_settings(kind: Any) -> bool:
    """Whether ``kind`` is a class with keys of its own."""
    return isinstance(kind, type) and (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind))


def variants(kind: type) -> list[type]:
    """Return ``kind`` itself, or the classes that are registered in it by name where it is abstract."""
    registry = getattr(kind, "registry", None)
    if inspect.isabstract(kind) and isinstance(registry, Mapping):
        ours = [each for each in registry.values() if each.__module__.split(".")[0] in WINGS]
        return [shared_by(kind), *ours]
    return [kind]


def shared_by(kind: type) -> type:
    """The class that defines the fields which all registered kinds share."""
    return next(base for base in reversed(kind.__mro__) if dataclasses.is_dataclass(base))


def tag_of(kind: type) -> tuple[str, str] | None:
    """The key and value by which a config picks this class among others, such as (``name``, ``cpt``)."""
    if method := getattr(kind, "method", None):
        return "method", str(method)
    if issubclass(kind, BaseModel):
        for name in ("name", "command"):
            info = kind.model_fields.get(name)
            values = typing.get_args(info.annotation) if info is not None else ()
            if info is not None and typing.get_origin(info.annotation) is Literal and len(values) == 1:
                return name, str(values[0])
    return None


@cache
def keys_of(kind: type) -> list[Key]:
    """List every field of a settings class, in its order."""
    texts = field_texts(kind)
    if issubclass(kind, BaseModel):
        return [_pydantic_key(name, info, texts.get(name, "")) for name, info in kind.model_fields.items()]
    hints = typing.get_type_hints(kind, include_extras=True)
    if getattr(kind, "method", None):  # one of many: only what it adds, or sets differently, is shown
        return [key for key in _dataclass_keys(kind, hints, texts) if key not in keys_of(shared_by(kind))]
    return _dataclass_keys(kind, hints, texts)


def _dataclass_keys(kind: type, hints: Mapping[str, Any], texts: Mapping[str, str]) -> list[Key]:
    return [
        _dataclass_key(each, hints[each.name], texts.get(each.name, ""))
        for each in dataclasses.fields(kind)
        if each.init
    ]


def field_texts(kind: type) -> dict[str, str]:
    """Read the docstring line under each field; a class goes before its bases."""
    ours = [base for base in reversed(kind.__mro__) if base not in (object, BaseModel)]
    return {name: text for base in ours for name, text in _docstrings(base).items()}


def summary(kind: type) -> str:
    """The docstring of a class without its section on errors."""
    text = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
    if dataclasses.is_dataclass(kind) and text.startswith(f"{kind.__name__}("):
        return ""  # dataclasses write their signature where nobody wrote anything
    return ("\n" + text).split("\nRaises:\n")[0].strip()


def refusals(kind: type) -> str:
    """What the docstring of a class says under Raises."""
    match = re.search(r"\nRaises:\n(.*)", "\n" + inspect.cleandoc(kind.__dict__.get("__doc__") or ""), re.S)
    return " ".join(match[1].split()).partition(": ")[2] if match else ""


@cache
def _docstrings(kind: type) -> dict[str, str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError):
        return {}
    body = tree.body[0].body  # type: ignore[attr-defined]
    found = {}
    for node, after in pairwise(body):
        said = after.value if isinstance(after, ast.Expr) else None
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(said, ast.Constant):
            found[node.target.id] = " ".join(str(said.value).split())
    return found


def _pydantic_key(name: str, info: FieldInfo, text: str) -> Key:
    required = info.is_required()
    default = "required" if required else shown(info.get_default(call_default_factory=True))
    kinds = tuple(_kinds(info.annotation))
    # a discriminated union is described where its members are
    law = laws([*info.metadata, *_nested_metadata(info.annotation)])
    return Key(name, type_text(info.annotation), default, law, info.description or text, kinds)


def _dataclass_key(each: dataclasses.Field[Any], hint: Any, text: str) -> Key:
    if each.default is not dataclasses.MISSING:
        default = shown(each.default)
    elif each.default_factory is not dataclasses.MISSING:
        default = shown(each.default_factory())
    else:
        default = "required"
    return Key(each.name, type_text(hint), default, laws(_nested_metadata(hint)), text, tuple(_kinds(hint)))


def type_text(hint: Any) -> str:
    """Write a type in words for readers of YAML."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint == BITMAP:
        return "bitmap"
    if origin is typing.Annotated:
        return type_text(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        texts = list(dict.fromkeys(type_text(each) for each in arguments))
        return "one of the sections below" if set(texts) == {"section"} and len(arguments) > 1 else " or ".join(texts)
    if origin in (list, tuple, Sequence) or (isinstance(origin, type) and issubclass(origin, Sequence)):
        return f"list of {type_text(arguments[0])}" if arguments else "list"
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping of {type_text(arguments[0])} to {type_text(arguments[1])}"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return " or ".join(f"`{each.value}`" for each in hint)
    if is_settings(hint):
        return "section"
    simple = {
        int: "whole number",
        float: "number",
        str: "text",
        bool: "true or false",
        type(None): "null",
        Any: "anything",
    }
    return simple.get(hint, getattr(hint, "__name__", str(hint)))


def laws(metadata: Sequence[Any]) -> str:
    """Say in words which bounds pydantic holds."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "length at least",
             "max_length": "length at most", "multiple_of": "a multiple of", "pattern": "matches"}  # fmt: skip
    found = []
    for each in metadata:
        for name, text in words.items():
            value = getattr(each, name, None)
            if value is not None:
                found.append(f"{text} `{value}`")
        for other in getattr(each, "others", ()):
            found.append(f"or `{other}`")
        if off := getattr(each, "off", ""):
            found.append(off)
    return ", ".join(dict.fromkeys(found))


def shown(value: Any) -> str:
    """Write a default value like YAML."""
    if value is None or value is PydanticUndefined:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, enum.Enum):
        return f"`{value.value}`"
    if is_settings(type(value)):
        tag = tag_of(type(value))
        return f"`{tag[1]}`, its defaults" if tag else "its defaults"
    if isinstance(value, Mapping):
        return "`{}`" if not value else f"`{dict(value)}`"
    if isinstance(value, list | tuple):
        if any(is_settings(type(each)) for each in value):
            return "see there"
        return f"`[{', '.join(str(each.value if isinstance(each, enum.Enum) else each) for each in value)}]`"
    return f"`{value}`" if value != "" else "empty"


def _nested_metadata(hint: Any) -> list[Any]:
    if typing.get_origin(hint) is typing.Annotated:
        return [*typing.get_args(hint)[1:], *_nested_metadata(typing.get_args(hint)[0])]
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return [each for part in typing.get_args(hint) for each in _nested_metadata(part)]
    return []


def _kinds(hint: Any) -> list[type]:
    if is_settings(hint):
        return variants(hint)
    return [kind for each in typing.get_args(hint) if not isinstance(each, str) for kind in _kinds(each)]
