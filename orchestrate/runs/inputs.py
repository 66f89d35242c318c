"""What a run's result depends on in addition to its config: the content of every file and folder that the config names.

Every field that is typed as a path is an input (:mod:`qalof.paths`), and so are the task's data and the base model of a
checkpoint, which the checkpoint names.  A name on the hub counts with the revision that lies in the local cache, where
that is known.  What an input is called does not matter: in the fingerprint of a run its digest takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub.constants

from orchestrate.config.base import BaseConfig
from qalof.digests import path_digest
from qalof.files import MANIFEST, read_json
from qalof.paths import DataPath, PathField, field_of, paths_of
from qalof.reading import exists, read_text


def input_digests(configs: Mapping[str, BaseConfig]) -> dict[str, str]:
    """Digest what lies at every input, by dotted key; equal contents have equal digests, whatever their names.

    Args:
        configs: the config alone, or the several for which it stands, by the beginning of their keys.
    """
    found: dict[str, str] = {}
    for at, config in configs.items():
        for key, text, field in paths_of(config):
            if field.input:
                found |= {f"{at}{name}": digest for name, digest in _digests(key, text, field)}
    return found


def without(config: Any, keys: Mapping[str, str], at: str = "") -> Any:
    """Replace the values of plain config data at the dotted ``keys`` by those of ``keys``."""
    if at in keys:
        return keys[at]
    dot = f"{at}." if at else ""
    if isinstance(config, Mapping):
        return {key: without(value, keys, f"{dot}{key}") for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [without(value, keys, f"{dot}{index}") for index, value in enumerate(config)]
    return config


def _digests(key: str, text: str, field: PathField) -> Iterator[tuple[str, str]]:
    path = field.path(text)
    if path is not None and exists(path):
        yield key, path_digest(path)
        yield from _of_checkpoint(key, path)
    elif path is None and field.hub and text not in field.words and (revision := revision_of(text)) is not None:
        yield key, f"{text}@{revision}"


def _of_checkpoint(key: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the inputs that a checkpoint names: its base model, and the data of its task."""
    if not (folder / MANIFEST).is_file():
        return
    from qalof.tasks.factory import TASKS  # torch, which a listing of runs has no use for

    manifest = read_json(folder / MANIFEST, "manifest")
    base, extra = (manifest.get(name) for name in ("base", "extra")) if isinstance(manifest, dict) else (None, None)
    hub = field_of(DataPath)
    if isinstance(base, dict) and "source" in base and hub is not None:
        yield from _digests(f"{key}:base", str(base["source"]), hub)
    task = extra.get("task") if isinstance(extra, dict) else None
    if isinstance(task, dict) and task.get("name") in TASKS:
        for name, text, field in paths_of(TASKS[task["name"]][1](**task["settings"])):
            yield from _digests(f"{key}:task.{name}", text, field)


def revision_of(name: str) -> str | None:
    """Return the commits of a hub's model or data set of this name in the local cache; None where it holds none."""
    root = Path(huggingface_hub.constants.HF_HUB_CACHE)
    heads = (root / f"{kind}--{name.replace('/', '--')}" / "refs" / "main" for kind in ("models", "datasets"))
    found = [read_text(head, "revision").strip() for head in heads if head.is_file()]
    return ",".join(found) or None
