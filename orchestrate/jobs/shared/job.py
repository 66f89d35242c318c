"""A job whose result is scores at bitmaps: how it is read, shown and put into tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from orchestrate.document.blocks import Block, Statement
from orchestrate.document.cell import Cell
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.record import Record, Step
from orchestrate.document.table_config import Place
from orchestrate.jobs.base import Checked, Config, Job
from orchestrate.jobs.shared.findings import Scored, scored


class ScoreJob(Job[Config, Checked]):
    """A command that scores one model at bitmaps."""

    def findings(self, folder: Path, result: Mapping[str, Any]) -> Scored:
        """Read the scores."""
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
