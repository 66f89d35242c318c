"""Reading configs: YAML, overrides, and errors in one line.

A file is read as :mod:`orchestrate.config.plain_yaml` says, overridden by ``key=value`` pairs (with OmegaConf) and
validated by pydantic.  What pydantic finds wrong becomes one line that names the key, the value and, for a misspelled
key, the nearest right one, which pydantic itself does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrate.config.base import BaseConfig
from orchestrate.config.plain_yaml import FileLoader, is_path, override_value
from orchestrate.config.redaction import redacted
from orchestrate.config.renamed import RENAMED, command_hint, key_hint
from orchestrate.config.shipped import way_to_shipped
from qalof.errors import BadInputError, nearest_hint
from qalof.reading import exists, read_text

Config = TypeVar("Config", bound=BaseConfig)
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")


def load_config(
    kind: type[Config],
    path: Path | None,
    overrides: Sequence[str] = (),
    prepare: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    given: Mapping[str, Any] | None = None,
) -> Config:
    """Read, override and validate.

    Args:
        kind: the config's class.
        path: a YAML file; None takes the defaults.
        overrides: ``a.b=value`` pairs, or ``a.0.b=value`` within a list; values are YAML, except for paths and texts.
        prepare: changes what was read, before the overrides.
        given: values by dotted key, as they stand, which win over the file and lose to the overrides.

    Raises:
        BadInputError: one line that names the file, the key and the way out.
    """
    data: Any = {} if path is None else read_yaml(path)
    data = prepare(data) if prepare else data
    where = "the overrides" if path is None else str(path)
    for override in overrides:
        if "=" not in override:
            raise BadInputError(f"an override must read key=value: got {override!r}")
    try:
        kept: list[str] = []
        merged = OmegaConf.create(_shielded(data, kept))
        for key, value in (given or {}).items():
            OmegaConf.update(merged, key, _shielded(value, kept, True), force_add=True)
        for override in overrides:
            key, _, text = override.partition("=")
            # one by one and not as one dot list, whose numbers would be keys: steps.0.config.limit=20
            value = _shielded(override_value(kind, key, text), kept, is_path(key))
            OmegaConf.update(merged, key, value, force_add=True)
        plain = _unshielded(OmegaConf.to_container(merged, resolve=True), kept)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, IndexError) as error:
        raise BadInputError(f"{where}: {str(error).splitlines()[0]}") from None
    return validate(kind, plain, where)


def validate(kind: type[Config], data: Any, where: str) -> Config:
    """Turn plain data into a config.

    Raises:
        BadInputError: the data break a law of the class; the error is one line.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise BadInputError(f"{where}: {_first_problem(error, kind)}") from None


def read_yaml(path: Path) -> Any:
    """Read a YAML mapping.

    Raises:
        BadInputError: the file is missing, is not YAML, is not a mapping, or has a key twice in one mapping.
    """
    way_out = None if exists(path) else way_to_shipped(path)
    if way_out:
        raise BadInputError(f"config file {path} does not exist; {way_out}")
    text = read_text(path, "config file")
    try:
        data = yaml.load(text, Loader=FileLoader)  # a safe loader
    except (yaml.YAMLError, RecursionError) as error:
        raise BadInputError(f"config file {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise BadInputError(f"config file {path} must hold a mapping of keys: got {type(data).__name__}")
    return data


def _shielded(value: Any, kept: list[str], path: bool = False) -> Any:
    """Put a placeholder for each path in ``value``, since OmegaConf would search paths for ``${...}``."""
    if isinstance(value, Mapping):
        return {key: _shielded(item, kept, is_path(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_shielded(item, kept, path) for item in value]
    if not (path and isinstance(value, str)):
        return value
    kept.append(value)
    return f"\0{len(kept) - 1}"


def _unshielded(value: Any, kept: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _unshielded(item, kept) for key, item in value.items()}
    if isinstance(value, list):
        return [_unshielded(item, kept) for item in value]
    return kept[int(value[1:])] if isinstance(value, str) and value.startswith("\0") else value


def to_plain(config: BaseConfig) -> dict[str, Any]:
    """Turn a config into plain data that may be written down: JSON can hold it, and it lacks the secrets of
    addresses.
    """
    plain: dict[str, Any] = redacted(config.model_dump(mode="json"))
    return plain


def _first_problem(error: ValidationError, kind: type[BaseConfig]) -> str:
    first = max(error.errors(), key=_weight)
    location = [str(part) for part in first["loc"]]
    if first["type"] in _UNKNOWN_KEY:
        *parents, wrong = location
        schema, path = _schema_at(kind, parents)
        return f"unknown key {'.'.join([*path, wrong])!r}; {key_hint(wrong, schema.get('properties', {}))}"
    key = ".".join(_schema_at(kind, location)[1])
    if key == "command" and first.get("input") in RENAMED:
        return f"command: {command_hint(first['input'], ())}"
    if first["type"] == "union_tag_invalid":
        names = [tag.strip("' ") for tag in first["ctx"]["expected_tags"].split(",")]
        return f"{key}.name: there is no {first['ctx']['tag']!r}; {nearest_hint(first['ctx']['tag'], names)}"
    if first["type"] == "missing":
        return f"missing key {key!r}"
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] == "value_error" else f" (got {first['input']!r})"
    if first["type"] == "string_type" and isinstance(first["input"], bool | int | float):
        shown = f"{shown[:-1]}; put it in quotes, since YAML reads it as no text)"
    joined = " " if message.startswith("must ") else ": "
    return f"{key}{joined}{message}{shown}" if key else f"{message}{shown}"


def _weight(problem: ErrorDetails) -> tuple[bool, bool, int]:
    """Rank several problems; the one to report is the largest.

    A misspelled key also makes its right name "missing", so the spelling goes first.  A value that fits no member of a
    union has a problem with each: the one whose law it breaks, and deepest within it, says the most.
    """
    return problem["type"] in _UNKNOWN_KEY, problem["type"] == "value_error", len(problem["loc"])


def _schema_at(kind: type[BaseConfig], location: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Find the JSON schema of what stands at a location, and the location without the names of unions and
    validators.
    """
    whole = kind.model_json_schema()
    schema: dict[str, Any] = whole
    path = []
    for part in location:
        below = _below(whole, schema, part)
        if below is not None:
            schema, named = below
            path += [part] if named else []
        elif part.isdigit() or (not schema and part.isidentifier()):
            path.append(part)
    return _resolved(whole, schema), path


def _resolved(whole: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = whole["$defs"][schema["$ref"].rsplit("/", 1)[-1]] if "$ref" in schema else schema
    return found


def _below(whole: dict[str, Any], schema: dict[str, Any], part: str) -> tuple[dict[str, Any], bool] | None:
    """Find the schema of a part of a location, and whether it is a key rather than a member of a union; None if it
    is neither.
    """
    schema = _resolved(whole, schema)
    if part in schema.get("properties", {}):
        return schema["properties"][part], True
    if part in (chosen := schema.get("discriminator", {}).get("mapping", {})):
        return {"$ref": chosen[part]}, False
    if part.isdigit() and schema.get("type") == "array":
        return schema.get("items", {}), True
    if "[" not in part and isinstance(schema.get("additionalProperties"), dict):
        return schema["additionalProperties"], True
    for option in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if (found := _below(whole, option, part)) is not None:
            return found
    return None
