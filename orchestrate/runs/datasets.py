"""The data that a run uses, as MLflow describes data sets: a name, a digest, and where it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrate.config.base import BaseConfig
from orchestrate.config.redaction import redact
from orchestrate.runs.inputs import revision_of
from qalof.digests import content_digest, path_digest
from qalof.files import MANIFEST, read_json
from qalof.paths import PathField, paths_of
from qalof.reading import exists
from qalof.tasks.factory import TASKS
from qalof.tiny import DATA_DIR

DATA_KEYS = ("data", "validation_data")
"""The settings that name data."""
MOST_DIGEST = 36
"""The length of MLflow's digests."""


def datasets_of(configs: Mapping[str, BaseConfig]) -> list[dict[str, str]]:
    """Describe the data of the configs for which a run stands, and of the task of its checkpoint; each once.

    Data is for training where the config trains, and otherwise for evaluation, as is ``validation_data`` always.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for config in configs.values():
        trains = "training" if hasattr(config, "training") else "evaluation"
        for key, text, field in _data_in(config):
            context = trains if key.rpartition(".")[2] == "data" else "evaluation"
            described = {**_described(text, field), "context": context}
            found[described["digest"], context] = described
    return list(found.values())


def _data_in(settings: Any) -> Iterator[tuple[str, str, PathField]]:
    for key, text, field in paths_of(settings):
        last = key.rpartition(".")[2]
        if last in DATA_KEYS or ".hub_data." in f".{key}":
            yield key, text, field
        elif last == "checkpoint" and (Path(text) / MANIFEST).is_file():
            manifest = read_json(Path(text) / MANIFEST, "manifest")
            task = (manifest.get("extra") or {}).get("task") if isinstance(manifest, dict) else None
            if isinstance(task, dict) and task.get("name") in TASKS:
                yield from _data_in(TASKS[task["name"]][1](**task["settings"]))


def _described(text: str, field: PathField) -> dict[str, str]:
    path = field.path(text)
    if text in field.words:
        kind, digest, name = "qalof", path_digest(DATA_DIR), text
    elif path is not None and exists(path):
        kind, digest, name = "local", path_digest(path), path.name
    else:
        kind, digest, name = "hugging_face", content_digest(text, revision_of(text)), text
    source = json.dumps({"uri": redact(text)})
    return {"name": redact(name), "digest": digest[:MOST_DIGEST], "source_type": kind, "source": source}
