"""Plain dataclasses with fields that are checked: for settings the core reads from JSON without pydantic.

The hints of a field are enough to check it: literals and enumerations, bool, numbers with their laws
(:mod:`qalof.laws`), and None beside them.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from enum import Enum
from typing import Any, Literal

from qalof.errors import BadInputError, nearest_hint
from qalof.laws import bare, hints_of, law_in, options_of


def check_fields(settings: Any, what: str) -> None:
    """Check every field of a frozen dataclass against its type; enumerations may be given by value.

    Raises:
        BadInputError: names the field, what it may be and what it is.
    """
    hints = hints_of(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        object.__setattr__(settings, field.name, _checked(value, hints[field.name], f"{what}: {field.name}"))


def check_keys(data: Any, known: Collection[str], what: str) -> Mapping[str, Any]:
    """Return ``data`` if it is a JSON object with no key outside ``known``.

    Raises:
        BadInputError: not an object, or an unknown key; names the nearest right one.
    """
    if not isinstance(data, Mapping):
        raise BadInputError(f"{what} must be an object of settings: got {data!r}")
    for key in data:
        if key not in known:
            raise BadInputError(f"{what} has no setting {key!r}; {nearest_hint(str(key), known)}")
    return data


def json_schema_of(read: Callable[[Any], Any]) -> Any:
    """The pydantic schema of a class that ``read`` makes from JSON and whose ``to_json`` gives it back.

    Only pydantic itself calls for it, so the core needs no pydantic to be imported.
    """
    from pydantic_core import core_schema

    write = core_schema.plain_serializer_function_ser_schema(lambda settings: settings.to_json())
    # "any" and not a plain validator: of that pydantic can make no JSON schema, which hints at misspelt keys need
    return core_schema.no_info_after_validator_function(read, core_schema.any_schema(), serialization=write)


def _checked(value: Any, hint: Any, what: str) -> Any:
    options = options_of(hint)
    for option in options:
        found, result = _match(value, option)
        if found:
            return result
    # a law says itself what null is
    said = [_describe(each) for each in options if each is not type(None) or not any(map(law_in, options))]
    raise BadInputError(f"{what} must be {' or '.join(said)}: got {value!r}")


def _match(value: Any, option: Any) -> tuple[bool, Any]:
    if (law := law_in(option)) is not None:
        return law.holds(value, bare(option) is int), value
    if typing.get_origin(option) is Literal:
        return any(value == one and type(value) is type(one) for one in typing.get_args(option)), value
    if option is float:
        return isinstance(value, int | float) and not isinstance(value, bool), value
    if option is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if isinstance(option, type) and issubclass(option, Enum):
        return value in list(option), option(value) if value in list(option) else None
    return (isinstance(value, option) if isinstance(option, type) else True), value


def _describe(option: Any) -> str:
    if (law := law_in(option)) is not None:
        return law.text(bare(option) is int)
    if typing.get_origin(option) is Literal:
        return " or ".join(repr(one) for one in typing.get_args(option))
    if option is float:
        return "a number"
    if isinstance(option, type) and issubclass(option, Enum):
        return " or ".join(repr(str(one.value)) for one in option)
    return "null" if option is type(None) else getattr(option, "__name__", str(option))
