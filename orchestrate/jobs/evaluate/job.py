"""``evaluate``: scoring a checkpoint at bitmaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from orchestrate.config.build import parse_bitmaps
from orchestrate.config.train import TrainConfig
from orchestrate.document.blocks import Block, Statement
from orchestrate.document.cell import Cell
from orchestrate.document.estimate import Estimate, scored_at
from orchestrate.document.planned_step import PlannedStep, bitmap_specs
from orchestrate.document.record import Record, Step
from orchestrate.document.table_config import Place
from orchestrate.jobs.base import Job, Result
from orchestrate.jobs.evaluate.config import EvaluateConfig
from orchestrate.jobs.shared.checkpoint import open_checkpoint
from orchestrate.jobs.shared.findings import Scored, scored
from orchestrate.jobs.shared.scores import evaluate_bitmaps, per_example, rows
from orchestrate.jobs.shared.settings import CHECKPOINT_SETTINGS
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import EVALUATIONS
from orchestrate.runs.mlflow_tracker import Run
from qalof.bitmap import PASS_THROUGH, Bitmap
from qalof.bitmap_names import short_name, summary
from qalof.checkpoint.opening import OpenCheckpoint, is_packed
from qalof.files import write_bytes, write_json
from qalof.model.adapters import SHARED
from search.bitmap_plot import bitmaps_picture, thinned

BITMAPS = "bitmaps.png"
"""The file name of a picture of the bitmaps that are not uniform."""


def other_task(config: EvaluateConfig) -> dict[str, Any] | None:
    """The task that the config sets, as plain data."""
    return None if config.task is None else {"name": config.task.name, "settings": asdict(config.task.settings)}


def check_evaluate(config: EvaluateConfig) -> tuple[OpenCheckpoint, list[Bitmap]]:
    """Open the checkpoint, and read the bitmaps.

    Raises:
        BadInputError: either cannot be used, or the task needs another head.
    """
    if is_packed(config.checkpoint):
        opened = OpenCheckpoint(config.checkpoint)
        packed = opened.runnable
        bitmaps = [packed.bitmap] if config.bitmaps is None else parse_bitmaps(config.bitmaps, packed.sites)
        return opened, [packed.set_bitmap(bitmap) for bitmap in bitmaps]
    opened = open_checkpoint(config.checkpoint, other_task(config))
    opened.task.fingerprint()  # this reads the data: what is wrong with it is said before any worker starts
    specs = config.bitmaps
    if specs is None:
        widths = {int(name) for name in opened.model.adapters if name != SHARED}
        specs = sorted(widths | {PASS_THROUGH}, reverse=True)
    return opened, parse_bitmaps(specs, opened.model.sites)


def evaluate(
    config: EvaluateConfig, checked: tuple[OpenCheckpoint, list[Bitmap]], directory: RunDirectory, run: Run
) -> dict[str, Any]:
    """Score the checkpoint at each bitmap."""
    opened, bitmaps = checked
    # a packed model has no adapters to switch to, and nothing that a bitmap could change
    model = opened.runnable
    sites, rest = model.sites, None if opened.is_packed else opened.model.rest
    scored = evaluate_bitmaps(opened, sites, bitmaps, config.limit, config.workers, run, rest)
    write_json(directory.path / EVALUATIONS, per_example(bitmaps, scored))
    if mixed := {f"{short_name(one)}: {summary(one, sites)}": one for one in bitmaps if not one.is_uniform}:
        shown = {title: mixed[title] for title in thinned(list(mixed))}
        write_bytes(directory.path / BITMAPS, bitmaps_picture(shown))
    return {"task": opened.task.name, "rows": rows(bitmaps, scored, sites, rest)}


class EvaluateJob(Job[EvaluateConfig, tuple[OpenCheckpoint, list[Bitmap]]]):
    """``qalof evaluate``."""

    name = "evaluate"
    config = EvaluateConfig
    settings = (*CHECKPOINT_SETTINGS, ("Task", "task.name"), ("Data", "task.settings.dataset"), ("Bitmaps", "bitmaps"))
    is_about = "A trained checkpoint, scored at several bitmaps on the same examples."

    def check(self, config: EvaluateConfig) -> tuple[OpenCheckpoint, list[Bitmap]]:
        """The checkpoint and the bitmaps."""
        return check_evaluate(config)

    def work(
        self, config: EvaluateConfig, checked: tuple[OpenCheckpoint, list[Bitmap]], directory: RunDirectory, run: Run
    ) -> Result:
        """Score the checkpoint at each bitmap."""
        return evaluate(config, checked, directory, run)

    def estimate(self, step: PlannedStep, trained: TrainConfig | None) -> Estimate | None:
        """Count one pass over the examples per bitmap."""
        if trained is None:
            return None
        config: Any = step.config
        return scored_at(trained, config.task or trained.task, config.limit, len(bitmap_specs(step)) or 1)

    def findings(self, folder: Path, result: Mapping[str, Any]) -> Scored:
        """The scores."""
        return scored(folder, result)

    def section(self, record: Record, step: Step, prefix: str) -> list[Block]:
        """Show the scores by bits, and their comparisons."""
        from orchestrate.jobs.shared.view import score_blocks

        return score_blocks(record, step, prefix)

    def statements(self, record: Record, step: Step) -> list[Statement]:
        """Compare the scores."""
        from orchestrate.jobs.shared.sentences import score_statements

        return score_statements(record, step)

    def terminal(self, result: Mapping[str, Any], folder: Path) -> list[RenderableType]:
        """Show the scores, and what was cut of the data."""
        from orchestrate.jobs.shared.terminal import score_parts

        return score_parts(result)

    def cell(self, place: Place, step: PlannedStep) -> Cell:
        """Read a metric or a cost at a bitmap."""
        from orchestrate.jobs.shared.cells import score_cell

        return score_cell(place, step)
