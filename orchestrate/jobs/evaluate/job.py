"""``evaluate``: scoring a checkpoint at bitmaps."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrate.config.build import parse_bitmaps
from orchestrate.jobs.evaluate.config import EvaluateConfig
from orchestrate.jobs.shared.checkpoint import Opened, open_checkpoint
from orchestrate.jobs.shared.scores import evaluate_bitmaps, per_example, rows
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.mlflow_tracker import Run
from qalof.bitmap import PASS_THROUGH, Bitmap
from qalof.bitmap_names import short_name, summary
from qalof.checkpoint.opening import is_packed, task_of
from qalof.export.packed_model import PackedModel
from qalof.files import write_bytes, write_json
from qalof.model.adapters import SHARED
from search.bitmap_plot import bitmaps_picture, thinned

BITMAPS = "bitmaps.png"
"""A picture of the bitmaps of an evaluation that are not uniform."""


def other_task(config: EvaluateConfig) -> dict[str, Any] | None:
    """The task that the config sets, as plain data."""
    return None if config.task is None else {"name": config.task.name, "settings": asdict(config.task.settings)}


def check_evaluate(config: EvaluateConfig) -> tuple[Opened, list[Bitmap]]:
    """The checkpoint and the bitmaps.

    Raises:
        BadInputError: either cannot be used, or a task that needs another head.
    """
    if is_packed(config.checkpoint):
        return _check_packed(config)
    opened = open_checkpoint(config.checkpoint, other_task(config))
    opened.task.fingerprint()  # reads the data, so that what is wrong with it is said before any worker starts
    specs = config.bitmaps
    if specs is None:
        widths = {int(name) for name in opened.model.adapters if name != SHARED}
        specs = sorted(widths | {PASS_THROUGH}, reverse=True)
    return opened, parse_bitmaps(specs, opened.model.sites)


def _check_packed(config: EvaluateConfig) -> tuple[Opened, list[Bitmap]]:
    packed = PackedModel.load(Path(config.checkpoint))
    bitmaps = [packed.bitmap] if config.bitmaps is None else parse_bitmaps(config.bitmaps, packed.sites)
    return Opened(packed, task_of(config.checkpoint)), [packed.set_bitmap(bitmap) for bitmap in bitmaps]


def evaluate(
    config: EvaluateConfig, checked: tuple[Opened, list[Bitmap]], directory: RunDirectory, run: Run
) -> dict[str, Any]:
    """Score the checkpoint at each bitmap."""
    opened, bitmaps = checked
    # a packed model has no adapters to switch to, and nothing that a bitmap could change
    sites, rest = opened.model.sites, getattr(opened.model, "rest", None)
    scored = evaluate_bitmaps(
        Path(config.checkpoint), sites, bitmaps, config.limit, config.workers, run, other_task(config), rest, opened
    )
    write_json(directory.path / "evaluations.json", per_example(bitmaps, scored))
    if mixed := {f"{short_name(one)}: {summary(one, sites)}": one for one in bitmaps if not one.is_uniform}:
        shown = {title: mixed[title] for title in thinned(list(mixed))}
        write_bytes(directory.path / BITMAPS, bitmaps_picture(shown))
    return {"task": opened.task.name, "rows": rows(bitmaps, scored, sites, rest)}
