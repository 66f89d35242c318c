"""Settings that are paths: their type says so, whoever reads them.

A field of a settings class that names a file or a folder is not a ``str`` but one of the types below.  From the type
follow that its text is taken as it stands and never as YAML, that ``~`` and ``~user`` at its beginning are home
folders, and, where it is an input, that a finished run counts as finished only while what lies there is the same. Links
are never resolved: the neighbors of a file are those of the name that the user gave.

The types work in plain dataclasses, which pydantic checks where a config holds them; it is not needed to import this.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

from qalof.bitmap_file import file_of, names_file
from qalof.cache import CACHED, models_dir
from qalof.home import expanded, is_short
from qalof.reading import exists


@dataclass(frozen=True)
class PathField:
    """The meaning of the text of a path-like setting.

    ``words``: texts that name what is shipped.  ``hub``: whether a text that names nothing here is a name on the hub.
    ``input``: whether a result depends on what lies there.  ``bitmap``: whether it is a bitmap's text, which may name a
    file and one of the bitmaps in it.
    """

    words: tuple[str, ...] = ()
    hub: bool = False
    input: bool = True
    bitmap: bool = False

    def path(self, text: str) -> Path | None:
        """Return the local path that ``text`` means; None for a word, a name on the hub, or no path at all."""
        if text in self.words:
            return None
        if self.bitmap:
            return file_of(text) if names_file(text) else None
        if self.hub and text.startswith(CACHED):
            return models_dir() / text.removeprefix(CACHED)
        path = expanded(text)
        return path if not self.hub or exists(path) else None

    def _whole(self, text: str) -> str:
        return str(expanded(text)) if is_short(text) and text not in self.words else text

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._whole, handler(source))


InputPath = Annotated[str, PathField()]
"""A file or folder that the result depends on."""

OutputPath = Annotated[str, PathField(input=False)]
"""A file or folder that is written."""

DataPath = Annotated[str, PathField(words=("tiny",), hub=True)]
"""Data: ``tiny``, a file, a folder (``data:NAME``: in that of ``QALOF_DATA``), or a name on the hub."""

ModelPath = DataPath
"""A pretrained model: ``tiny``, ``cache:NAME``, a folder, a GGUF file, or a name on the hub."""

BitmapText = Annotated[str, PathField(bitmap=True)]
"""A bitmap's text, which may be the path of a file that holds one."""


def annotations_of(kind: type) -> dict[str, Any]:
    """Return field name -> annotation, of a settings class (a dataclass or a pydantic model); it is empty for any
    other.
    """
    own = getattr(kind, "model_fields", None)
    names = list(own) if own is not None else [each.name for each in fields(kind)] if is_dataclass(kind) else []
    hints = typing.get_type_hints(kind, include_extras=True) if names else {}
    return {name: hints[name] for name in names}


def field_of(annotation: Any) -> PathField | None:
    """Return the path field within an annotation such as ``list[InputPath] | None``; None where there is none."""
    for each in getattr(annotation, "__metadata__", ()):
        if isinstance(each, PathField):
            return each
    inner = typing.get_args(annotation)
    return next((found for each in inner if (found := field_of(each)) is not None), None)


def paths_of(settings: Any, at: str = "") -> Iterator[tuple[str, str, PathField]]:
    """Yield every path-like text below a settings object: its dotted key, the text, and its meaning.

    An object with a method ``beside()`` names files that it reads besides those of its fields, and one with a method
    ``hub_data()`` data sets of the hub.
    """
    for name, annotation in annotations_of(type(settings)).items():
        yield from _below(getattr(settings, name), annotation, f"{at}{name}")
    for path in getattr(settings, "beside", tuple)():
        yield f"{at}beside.{path.name}", str(path), PathField()
    for name in getattr(settings, "hub_data", tuple)():
        yield f"{at}hub_data.{name}", name, PathField(hub=True)


def _below(value: Any, annotation: Any, key: str) -> Iterator[tuple[str, str, PathField]]:
    if isinstance(value, str):
        if (field := field_of(annotation)) is not None:
            yield key, value, field
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _below(item, annotation, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _below(item, annotation, f"{key}.{index}")
    else:
        yield from paths_of(value, f"{key}.")
