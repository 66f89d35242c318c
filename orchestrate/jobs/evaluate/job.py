"""``evaluate``: scoring a checkpoint at bitmaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from orchestrate.config.build import parse_bitmaps
from orchestrate.config.train import TrainConfig
from orchestrate.document.blocks import Block
from orchestrate.document.estimate import Estimate, scored_at
from orchestrate.document.planned_step import PlannedStep, bitmap_specs
from orchestrate.document.record import Record, Step
from orchestrate.jobs.base import Result
from orchestrate.jobs.evaluate.config import EvaluateConfig
from orchestrate.jobs.evaluate.random_precision import (
    ScoredUnderDraws,
    defense_of,
    drawn_in,
    drawn_sheet,
    drawn_table,
    scores_under,
)
from orchestrate.jobs.shared.checkpoint import open_checkpoint
from orchestrate.jobs.shared.job import ScoreJob
from orchestrate.jobs.shared.labels import tell_labels
from orchestrate.jobs.shared.scores import evaluate_bitmaps, per_example, rows
from orchestrate.jobs.shared.settings import CHECKPOINT_SETTINGS
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import BITMAPS_PICTURE, EVALUATIONS
from orchestrate.runs.mlflow_tracker import Run
from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.bitmap import FULL_PRECISION, Bitmap
from qalof.bitmap_names import short_name, summary
from qalof.checkpoint.opening import OpenCheckpoint, is_packed
from qalof.errors import BadInputError
from qalof.files import write_bytes, write_json
from qalof.model.adapters import SHARED
from qalof.tasks.base import on_request

Checked = tuple[OpenCheckpoint, list[Bitmap], RandomPrecision | None]
"""The checkpoint, the bitmaps, and what is drawn."""


def other_task(config: EvaluateConfig) -> dict[str, Any] | None:
    """Return the task that the config sets, as plain data."""
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
        drawn = None if config.random_precision is None else defense_of(config.random_precision, opened)
        return opened, [packed.set_bitmap(bitmap) for bitmap in bitmaps], drawn
    opened = open_checkpoint(config.checkpoint, other_task(config))
    on_request(opened.task, config.on_request)
    tell_labels(opened.task)
    opened.task.fingerprint()  # this reads the data: what is wrong with it is said before any worker starts
    specs = config.bitmaps
    if specs is None:
        widths = {int(name) for name in opened.model.adapters if name != SHARED}
        specs = sorted(widths | {FULL_PRECISION}, reverse=True)
    drawn = None if config.random_precision is None else defense_of(config.random_precision, opened)
    return opened, parse_bitmaps(specs, opened.model.sites), drawn


def evaluate(config: EvaluateConfig, checked: Checked, directory: RunDirectory, run: Run) -> Result:
    """Score the checkpoint at each bitmap, and under random precision where it is asked for."""
    opened, bitmaps, defense = checked
    # a packed model has no adapters to switch to, and nothing that a bitmap could change
    model = opened.runnable
    sites, rest = model.sites, None if opened.is_packed else opened.model.rest
    scored = evaluate_bitmaps(opened, sites, bitmaps, config.limit, config.workers, run, rest, config.on_request)
    write_json(directory.path / EVALUATIONS, per_example(bitmaps, scored))
    if mixed := {f"{short_name(one)}: {summary(one, sites)}": one for one in bitmaps if not one.is_uniform}:
        from search.bitmap_plot import bitmaps_picture, thinned

        shown = {title: mixed[title] for title in thinned(list(mixed))}
        write_bytes(directory.path / BITMAPS_PICTURE, bitmaps_picture(shown))
        run.artifact(directory.path / BITMAPS_PICTURE)
    result: dict[str, Any] = {"task": opened.task.name, "rows": rows(bitmaps, scored, sites, rest)}
    if defense is not None:
        # what is measured on request is not measured under random precision, so such scores do not serve it
        known = {} if config.on_request else dict(zip(bitmaps, scored, strict=True))
        found = scores_under(config, opened, sites, defense, known)
        run.log_metrics({f"random_precision.{name}": values[0] for name, values in found["metrics"].items()})
        result["random_precision"] = found
    return result


class EvaluateJob(ScoreJob[EvaluateConfig, Checked]):
    """``qalof evaluate``."""

    name = "evaluate"
    config = EvaluateConfig
    settings = (*CHECKPOINT_SETTINGS, ("Task", "task.name"), ("Data", "task.settings.dataset"), ("Bitmaps", "bitmaps"),
                ("Random precision", "random_precision"))  # fmt: skip
    is_about = "A trained checkpoint, scored at several bitmaps on the same examples."

    def check(self, config: EvaluateConfig) -> Checked:
        """Return the checkpoint and the bitmaps, drawn ones among them."""
        return check_evaluate(config)

    def work(self, config: EvaluateConfig, checked: Checked, directory: RunDirectory, run: Run) -> Result:
        """Score the checkpoint at each bitmap."""
        return evaluate(config, checked, directory, run)

    def findings(self, folder: Path, result: Mapping[str, Any]) -> ScoredUnderDraws:
        """Read the scores."""
        found = super().findings(folder, result)
        return ScoredUnderDraws(found.task, found.points, found.evaluations, drawn_in(result))

    def section(self, record: Record, step: Step, prefix: str) -> list[Block]:
        """Show the scores by bits, their comparisons, and those under random precision."""
        blocks, found = super().section(record, step, prefix), step.findings
        under = found.random_precision if isinstance(found, ScoredUnderDraws) else None
        return blocks if under is None else [*blocks, drawn_table(under)]

    def terminal(self, result: Mapping[str, Any], folder: Path) -> list[RenderableType]:
        """Show the scores, what was cut of the data, and random precision."""
        parts = super().terminal(result, folder)
        under = drawn_in(result)
        return parts if under is None else [*parts, drawn_sheet(under)]

    def estimate(self, step: PlannedStep, trained: TrainConfig | None) -> Estimate | None:
        """Count one pass over the examples per bitmap."""
        if trained is None:
            return None
        config: Any = step.config
        return scored_at(trained, config.task or trained.task, config.limit, len(bitmap_specs(step)) or 1)
