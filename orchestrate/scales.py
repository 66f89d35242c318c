"""Scales: the same experiment at another size.

A config of a reference's table is written at its full size.  ``scale=tiny`` lays ``configs/scales/tiny.yaml`` over
its steps, before any other override: a scale says what changes for each *kind* of step, task, method and objective
(``tasks`` and ``methods`` hold settings), and so one file serves all tables.  What a table needs beyond that stands in
the config itself, under ``scales: {tiny: {steps: {NAME: ...}}}``.  Mappings merge, anything else is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from orchestrate.config_file import read_yaml, validate
from orchestrate.section import Section
from qalof.errors import BadInputError, nearest_hint

FULL = "full"
FOLDER = Path(__file__).resolve().parent.parent / "configs" / "scales"


class ScaleConfig(Section):
    """Overrides by kind; keys below are those of the steps' configs."""

    workers: dict[str, Any] = Field({})
    commands: dict[str, dict[str, Any]] = Field({})
    tasks: dict[str, dict[str, Any]] = Field({})
    objectives: dict[str, dict[str, Any]] = Field({})
    methods: dict[str, dict[str, Any]] = Field({})


class OwnScale(Section):
    """What one config changes at a scale, beyond the scale's own file: step name -> overrides of its config."""

    steps: dict[str, dict[str, Any]] = Field({})


def scaled(data: Mapping[str, Any], scale: str) -> dict[str, Any]:
    """A pipeline's data, as read from YAML, at ``scale``.

    Args:
        data: of the pipeline; ``scales`` in it may hold an :class:`OwnScale` for this scale.
        scale: ``full`` for no change, a name in ``configs/scales``, or the path of a file like those.

    Raises:
        BadInputError: no such scale, or one that overrides a step that is not there.
    """
    if scale == FULL:
        return {**data, "scale": scale}
    overlay = validate(ScaleConfig, read_yaml(_file(scale)), f"scale {scale}")
    mine = (data.get("scales") or {}).get(scale)
    own = validate(OwnScale, mine or {}, f"scales.{scale}")
    steps = data.get("steps") or []
    names = [str(step.get("name")) for step in steps]
    for name in own.steps:
        if name not in names:
            raise BadInputError(f"scales.{scale}.steps must name steps: got {name!r}; {nearest_hint(name, names)}")
    changed = [{**s, "config": _scale_step(s, overlay, own.steps.get(str(s.get("name")), {}))} for s in steps]
    return {
        **data,
        "scale": scale,
        "steps": changed,
        "workers": merged(data.get("workers") or {}, overlay.workers),
    }


def merged(below: Any, above: Any) -> Any:
    """``above`` over ``below``: mappings key by key, everything else whole."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: merged(below[key], value) if key in below else value for key, value in above.items()}}


def _scale_step(step: Mapping[str, Any], overlay: ScaleConfig, own: Mapping[str, Any]) -> Any:
    config = merged(step.get("config") or {}, overlay.commands.get(str(step.get("command")), {}))
    for section, known in (("task", overlay.tasks), ("objective", overlay.objectives), ("method", overlay.methods)):
        chosen = config.get(section)
        if isinstance(chosen, Mapping) and chosen.get("name") in known:
            above = known[chosen["name"]]
            config = merged(config, {section: above if section == "objective" else {"settings": above}})
    return merged(config, own)


def _file(scale: str) -> Path:
    path = Path(scale).expanduser()
    if path.suffix in (".yaml", ".yml"):
        return path
    found = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    if scale not in found:
        raise BadInputError(
            f"scale must be {FULL}, a file, or one of configs/scales: got {scale!r}; {nearest_hint(scale, found)}"
        )
    return FOLDER / f"{scale}.yaml"
