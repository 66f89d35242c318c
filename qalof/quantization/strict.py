"""Plain dataclasses whose fields are checked, for settings that the core reads from JSON without pydantic.

The hints of a field are enough to check it: literals and enumerations, bool, numbers with their laws
(:mod:`qalof.laws`), and None alongside them.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from enum import Enum
from typing import Any, Literal

from qalof.errors import BadInputError, nearest_hint
from qalof.laws import bare, hints_of, law_in, options_of

RENAMED = {
    "passthrough_bits": "full_precision_bits",
    "strict_groups": "require_divisible",
    "real_bits": "fractional_bits",
    "outliers": "outlier_threshold",
}
"""Settings that once had another name. Whoever writes the old one reads the new one in the error; files of an older
format version are read under the new ones."""


def check_fields(settings: Any, what: str) -> None:
    """Check every field of a frozen dataclass against its type; enumerations may be given by value.

    Raises:
        BadInputError: A field has a value that it may not have; the message names the field, its type and the value.
    """
    hints = hints_of(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        object.__setattr__(settings, field.name, _checked(value, hints[field.name], f"{what}: {field.name}"))


def check_keys(data: Any, known: Collection[str], what: str) -> Mapping[str, Any]:
    """Return ``data`` if it is a JSON object with no key outside ``known``.

    Raises:
        BadInputError: ``data`` is not an object, or a key is unknown; the message names the nearest known key.
    """
    if not isinstance(data, Mapping):
        raise BadInputError(f"{what} must be an object of settings: got {data!r}")
    for key in data:
        if RENAMED.get(key) in known and key not in known:
            raise BadInputError(f"{what} has no setting {key!r}: it is named {RENAMED[key]!r} now; write that")
        if key not in known:
            raise BadInputError(f"{what} has no setting {key!r}; {nearest_hint(str(key), known)}")
    return data


def under_new_names(data: Any) -> Any:
    """Return stored settings of an older format version with the names that their keys have now, at any depth."""
    if isinstance(data, Mapping):
        named = {RENAMED.get(key, key): under_new_names(value) for key, value in data.items()}
        return named | ({"fractional_bits": "interpolate"} if named.get("fractional_bits") == "mix" else {})
    return [under_new_names(value) for value in data] if isinstance(data, list) else data


def json_schema_of(read: Callable[[Any], Any]) -> Any:
    """Return the pydantic schema of a class that ``read`` makes from JSON and whose ``to_json`` returns that JSON.

    Only pydantic itself asks for it, so importing the core does not import pydantic.
    """
    from pydantic_core import core_schema

    write = core_schema.plain_serializer_function_ser_schema(lambda settings: settings.to_json())
    # "any" and not a plain validator: pydantic cannot make a JSON schema of the latter, and hints at misspelled keys
    # need one
    return core_schema.no_info_after_validator_function(read, core_schema.any_schema(), serialization=write)


def _checked(value: Any, hint: Any, what: str) -> Any:
    options = options_of(hint)
    for option in options:
        found, result = _match(value, option)
        if found:
            return result
    # a law itself says what null means
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
