"""Reading configs: YAML, overrides, and errors in one line.

A file is read by ``yaml.safe_load``, overridden by ``key=value`` pairs (OmegaConf's dot lists) and validated by
pydantic.  What pydantic finds wrong becomes one line that names the key, the value and, for a misspelt key, the
nearest right one, which pydantic itself does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from orchestrate.config import Section
from orchestrate.redaction import redacted
from qalof.errors import BadInputError, nearest_hint

Config = TypeVar("Config", bound=Section)


def load_config(
    kind: type[Config],
    path: Path | None,
    overrides: Sequence[str] = (),
    prepare: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Config:
    """Read, override and validate.

    Args:
        kind: the config's class.
        path: YAML file; None for the defaults.
        overrides: ``a.b=value`` pairs, ``a.0.b=value`` within a list; values in YAML.
        prepare: changes what was read, before the overrides.

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
        merged = OmegaConf.create(data)
        for override in overrides:
            key, _, value = override.partition("=")
            # one by one and not as one dot list, whose numbers would be keys: steps.0.config.limit=20
            OmegaConf.update(merged, key, OmegaConf.from_dotlist([f"value={value}"]).value, force_add=True)
        plain = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, IndexError) as error:
        raise BadInputError(f"{where}: {str(error).splitlines()[0]}") from None
    return validate(kind, plain, where)


def validate(kind: type[Config], data: Any, where: str) -> Config:
    """Turn plain data into a config.

    Raises:
        BadInputError: what pydantic finds, in one line.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise BadInputError(f"{where}: {_first_problem(error, kind)}") from None


def read_yaml(path: Path) -> Any:
    """A YAML mapping.

    Raises:
        BadInputError: missing, not YAML, or not a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise BadInputError(f"config file {path} does not exist") from None
    except yaml.YAMLError as error:
        raise BadInputError(f"config file {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise BadInputError(f"config file {path} must hold a mapping of keys: got {type(data).__name__}")
    return data


def to_plain(config: Section) -> dict[str, Any]:
    """The resolved config as JSON-able data, as it may be written down: without the secrets of addresses."""
    plain: dict[str, Any] = redacted(config.model_dump(mode="json"))
    return plain


def _first_problem(error: ValidationError, kind: type[Section]) -> str:
    problems = error.errors()
    # a misspelt key also makes its right name "missing"; the spelling is the news
    first = next((p for p in problems if p["type"] in ("extra_forbidden", "unexpected_keyword_argument")), problems[0])
    location = [str(part) for part in first["loc"]]
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        *parents, wrong = location
        known = _keys_at(kind, parents)
        return f"unknown key {'.'.join([*_untagged(kind, parents), wrong])!r}; {nearest_hint(wrong, known)}"
    key = ".".join(_untagged(kind, location))
    if first["type"] == "union_tag_invalid":
        names = [tag.strip("' ") for tag in first["ctx"]["expected_tags"].split(",")]
        return f"{key}.name: there is no {first['ctx']['tag']!r}; {nearest_hint(first['ctx']['tag'], names)}"
    if first["type"] == "missing":
        return f"missing key {key!r}"
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] == "value_error" else f" (got {first['input']!r})"
    return f"{key}: {message}{shown}" if key else f"{message}{shown}"


def _schema_at(kind: type[Section], parents: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The JSON schema of the section at a location, and the location without the tags of unions."""
    whole = kind.model_json_schema()
    schema, path = whole, []
    for part in parents:
        properties = schema.get("properties", {})
        if part in properties:
            path.append(part)
            schema = _deref(whole, properties[part])
        elif part in schema.get("discriminator", {}).get("mapping", {}):
            schema = _deref(whole, {"$ref": schema["discriminator"]["mapping"][part]})
        elif part.isdigit() or not schema.get("anyOf"):
            path.append(part)
    return schema, path


def _deref(whole: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    found: dict[str, Any] = whole["$defs"][reference.rsplit("/", 1)[-1]] if reference else schema
    return found


def _keys_at(kind: type[Section], parents: Sequence[str]) -> list[str]:
    return list(_schema_at(kind, parents)[0].get("properties", {}))


def _untagged(kind: type[Section], location: Sequence[str]) -> list[str]:
    return _schema_at(kind, location)[1]
