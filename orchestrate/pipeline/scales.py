"""Scales: the same experiment at another size.

A config of a reference's table is written at its full size.  ``scale=tiny`` lays ``configs/scales/tiny.yaml`` over
its steps, before any other override: a scale says what changes for each *kind* of step, task, method and objective
(``tasks`` and ``methods`` hold settings), so one file serves all tables.  What a table needs beyond that stands in the
config itself, under ``scales: {tiny: {steps: {NAME: ...}}}``.  Mappings merge, anything else is replaced, and no count
of a command is raised.  What a scale made smaller is noted below the table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from orchestrate.config.base import BaseConfig
from orchestrate.config.loader import read_yaml, validate
from orchestrate.config.shipped import CONFIGS
from orchestrate.document import formats
from qalof.errors import BadInputError, nearest_hint
from qalof.home import expanded

FULL = "full"
FOLDER = CONFIGS / "scales"


class ScaleConfig(BaseConfig):
    """Overrides for each kind of step, task, objective and method; keys below are those of the steps' configs."""

    needs: list[str] = Field([])
    """The environment variables that the scale reads, such as that of a folder of data."""
    sites: dict[str, str] = Field({})
    """The patterns of sites for the tables' rows, by the patterns that they replace: another model has other kinds of
    layers."""
    workers: dict[str, Any] = Field({})
    """The overrides of the pipeline's ``workers``."""
    commands: dict[str, dict[str, Any]] = Field({})
    """The overrides of the steps' configs, by command."""
    tasks: dict[str, dict[str, Any]] = Field({})
    """The overrides of the task's settings, by task."""
    objectives: dict[str, dict[str, Any]] = Field({})
    """The overrides of the objective, by its name."""
    methods: dict[str, dict[str, Any]] = Field({})
    """The overrides of the attack's settings, by method."""


class OwnScale(BaseConfig):
    """What one config changes at a scale, beyond the scale's own file."""

    steps: dict[str, dict[str, Any]] = Field({})
    """The overrides of the steps' configs, by the name of the step."""


def scaled(data: Mapping[str, Any], scale: str) -> dict[str, Any]:
    """Lay a scale over a pipeline's data, as read from YAML.

    Args:
        data: the pipeline's data; its ``scales`` may hold an :class:`OwnScale` for this scale.
        scale: ``full`` for no change, a name in ``configs/scales``, or the path of a file like those.

    Raises:
        BadInputError: there is no such scale, or it overrides a step that is not there.
    """
    if scale == FULL:
        return {**data, "scale": scale}
    overlay = validate(ScaleConfig, read_yaml(_file(scale)), f"scale {scale}")
    for name in overlay.needs:
        if not os.environ.get(name):
            raise BadInputError(
                f"scale {scale} needs the environment variable {name}: it is not set; export {name}=..."
            )
    mine = (data.get("scales") or {}).get(scale)
    own = validate(OwnScale, mine or {}, f"scales.{scale}")
    steps = data.get("steps") or []
    names = [str(step.get("name")) for step in steps]
    for name in own.steps:
        if name not in names:
            raise BadInputError(f"scales.{scale}.steps must name steps: got {name!r}; {nearest_hint(name, names)}")
    changed = [{**s, "config": _scale_step(s, overlay, own.steps.get(str(s.get("name")), {}))} for s in steps]
    done = {
        **data,
        "scale": scale,
        "steps": changed,
        "workers": merged(data.get("workers") or {}, overlay.workers),
    }
    return done | ({"table": _scale_table(data["table"], overlay, cuts(steps, changed))} if data.get("table") else {})


def merged(below: Any, above: Any) -> Any:
    """Lay ``above`` over ``below``: mappings are merged key by key, everything else is replaced whole."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: merged(below[key], value) if key in below else value for key, value in above.items()}}


def cuts(full: Sequence[Mapping[str, Any]], changed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what a scale made smaller, one line for all steps of the same changes: ``sp and cpt: training.steps 8 of
    1000``.

    Args:
        full: the steps as the config has them.
        changed: the same steps at the scale.
    """
    names: dict[str, list[str]] = {}
    for before, after in zip(full, changed, strict=True):
        smaller = [
            f"{key} {new} of {'all' if old is None else old}"
            for key, old, new in _changes(before.get("config") or {}, after["config"])
            if _is_number(new) and (new < old if _is_number(old) else old is None and key.endswith("limit"))
        ]
        if smaller:
            names.setdefault(", ".join(smaller), []).append(str(before.get("name")))
    return [f"{formats.listed(steps)}: {smaller}" for smaller, steps in names.items()]


def _changes(before: Any, after: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(after, Mapping):
        for name, value in after.items():
            below = before.get(name) if isinstance(before, Mapping) else None
            yield from _changes(below, value, f"{key}.{name}" if key else str(name))
    elif before != after:
        yield key, before, after


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scale_table(table: Mapping[str, Any], overlay: ScaleConfig, cut: Sequence[str]) -> dict[str, Any]:
    """Put this scale's patterns of sites into the table's rows, and add a note on what was cut."""

    def named(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return "|".join(overlay.sites.get(part, part) for part in value.split("|"))

    rows = [{**row, "keys": {key: named(value) for key, value in (row.get("keys") or {}).items()}}
            for row in table["rows"]]  # fmt: skip
    note = [f"Cut at this scale: {'; '.join(cut)}."] if cut else []
    return {**table, "rows": rows, "notes": [*(table.get("notes") or []), *note]}


def _no_larger(full: Any, above: Any) -> Any:
    """Leave out the counts of ``above`` that are larger than what they replace: a step that trains one does not train
    8.
    """
    if isinstance(full, Mapping) and isinstance(above, Mapping):
        return {key: _no_larger(full.get(key), value) for key, value in above.items()}
    both = all(isinstance(value, int) and not isinstance(value, bool) for value in (full, above))
    return min(full, above) if both else above


def _scale_step(step: Mapping[str, Any], overlay: ScaleConfig, own: Mapping[str, Any]) -> Any:
    full = step.get("config") or {}
    config = merged(full, _no_larger(full, overlay.commands.get(str(step.get("command")), {})))
    for section, known in (("task", overlay.tasks), ("objective", overlay.objectives), ("method", overlay.methods)):
        chosen = config.get(section)
        if isinstance(chosen, Mapping) and chosen.get("name") in known:
            above = _of_steps(known[chosen["name"]], chosen.get("settings") or {})
            config = merged(config, {section: above if section == "objective" else {"settings": above}})
    return merged(config, own)


def _of_steps(above: Mapping[str, Any], settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Adapt ``above`` to a task whose training data an earlier step makes at any scale: it then says what is scored."""
    if "data" not in above or not str(settings.get("data", "")).startswith("step:"):
        return above
    rest = {key: value for key, value in above.items() if key != "data"}
    return {"validation_data": above["data"], **rest}


def _file(scale: str) -> Path:
    path = expanded(scale)
    if path.suffix in (".yaml", ".yml"):
        return path
    found = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    if scale not in found:
        raise BadInputError(
            f"scale must be {FULL}, a file, or one of configs/scales: got {scale!r}; {nearest_hint(scale, found)}"
        )
    return FOLDER / f"{scale}.yaml"
