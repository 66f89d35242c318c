"""``evaluate``: scoring a checkpoint at bitmaps."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from orchestrate.config.build import parse_bitmaps
from orchestrate.config.train import TrainConfig
from orchestrate.document.estimate import Estimate, scored_at
from orchestrate.document.planned_step import PlannedStep, bitmap_specs
from orchestrate.jobs.base import Result
from orchestrate.jobs.evaluate.config import EvaluateConfig
from orchestrate.jobs.shared.checkpoint import open_checkpoint
from orchestrate.jobs.shared.job import ScoreJob
from orchestrate.jobs.shared.scores import evaluate_bitmaps, per_example, rows
from orchestrate.jobs.shared.settings import CHECKPOINT_SETTINGS
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import EVALUATIONS
from orchestrate.runs.mlflow_tracker import Run
from qalof.bitmap import FULL_PRECISION, Bitmap
from qalof.bitmap_names import short_name, summary
from qalof.checkpoint.opening import OpenCheckpoint, is_packed
from qalof.errors import BadInputError
from qalof.files import write_bytes, write_json
from qalof.model.adapters import SHARED
from qalof.tasks.base import on_request

BITMAPS = "bitmaps.png"
"""The file name of a picture of the bitmaps that are not uniform."""
Checked = tuple[OpenCheckpoint, list[Bitmap]]
"""The checkpoint and the bitmaps."""


def other_task(config: EvaluateConfig) -> dict[str, Any] | None:
    """The task that the config sets, as plain data."""
    return None if config.task is None else {"name": config.task.name, "settings": asdict(config.task.settings)}


def check_evaluate(config: EvaluateConfig) -> Checked:
    """Open the checkpoint, and read the bitmaps.

    Raises:
        BadInputError: either cannot be used, or the task needs another head.
    """
    if is_packed(config.checkpoint):
        opened = OpenCheckpoint(config.checkpoint)
        packed = opened.runnable
        if config.on_request:
            raise BadInputError(
                f"on_request must be empty for a packed model, which has no full precision: got {config.on_request}; "
                "evaluate the checkpoint that it was packed from"
            )
        bitmaps = [packed.bitmap] if config.bitmaps is None else parse_bitmaps(config.bitmaps, packed.sites)
        return opened, [packed.set_bitmap(bitmap) for bitmap in bitmaps]
    opened = open_checkpoint(config.checkpoint, other_task(config))
    on_request(opened.task, config.on_request)
    opened.task.fingerprint()  # this reads the data: what is wrong with it is said before any worker starts
    specs = config.bitmaps
    if specs is None:
        widths = {int(name) for name in opened.model.adapters if name != SHARED}
        specs = sorted(widths | {FULL_PRECISION}, reverse=True)
    return opened, parse_bitmaps(specs, opened.model.sites)


def evaluate(config: EvaluateConfig, checked: Checked, directory: RunDirectory, run: Run) -> Result:
    """Score the checkpoint at each bitmap."""
    opened, bitmaps = checked
    # a packed model has no adapters to switch to, and nothing that a bitmap could change
    model = opened.runnable
    sites, rest = model.sites, None if opened.is_packed else opened.model.rest
    scored = evaluate_bitmaps(opened, sites, bitmaps, config.limit, config.workers, run, rest, config.on_request)
    write_json(directory.path / EVALUATIONS, per_example(bitmaps, scored))
    if mixed := {f"{short_name(one)}: {summary(one, sites)}": one for one in bitmaps if not one.is_uniform}:
        from search.bitmap_plot import bitmaps_picture, thinned

        shown = {title: mixed[title] for title in thinned(list(mixed))}
        write_bytes(directory.path / BITMAPS, bitmaps_picture(shown))
    return {"task": opened.task.name, "rows": rows(bitmaps, scored, sites, rest)}


class EvaluateJob(ScoreJob[EvaluateConfig, Checked]):
    """``qalof evaluate``."""

    name = "evaluate"
    config = EvaluateConfig
    settings = (*CHECKPOINT_SETTINGS, ("Task", "task.name"), ("Data", "task.settings.dataset"), ("Bitmaps", "bitmaps"))
    is_about = "A trained checkpoint, scored at several bitmaps on the same examples."

    def check(self, config: EvaluateConfig) -> Checked:
        """The checkpoint and the bitmaps."""
        return check_evaluate(config)

    def work(self, config: EvaluateConfig, checked: Checked, directory: RunDirectory, run: Run) -> Result:
        """Score the checkpoint at each bitmap."""
        return evaluate(config, checked, directory, run)

    def estimate(self, step: PlannedStep, trained: TrainConfig | None) -> Estimate | None:
        """Count one pass over the examples per bitmap."""
        if trained is None:
            return None
        config: Any = step.config
        return scored_at(trained, config.task or trained.task, config.limit, len(bitmap_specs(step)) or 1)
