"""``export``: a checkpoint at one bitmap in a format that a runtime loads.

The files lie in the run directory, under the name that their format has
(:attr:`orchestrate.jobs.export.config.ExportFormat.place`), and appear there whole or not at all.  Without a config the
command writes to ``--output`` itself, and leaves no run directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from orchestrate.config.build import parse_bitmaps
from orchestrate.config.train import TrainConfig
from orchestrate.document.blocks import Block, Statement
from orchestrate.document.estimate import Estimate, parameters_of, sites_of
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.record import Record, Step
from orchestrate.jobs.base import Job, Result
from orchestrate.jobs.export.config import ExportConfig
from orchestrate.jobs.export.findings import Exported, exported
from orchestrate.jobs.export.opening import Opened, check_widths, open_for_export
from orchestrate.jobs.export.write import write_export
from orchestrate.jobs.shared.scores import record_bitmap
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.mlflow_tracker import Run
from qalof.bitmap_names import short_name
from qalof.checkpoint.manifest import read_manifest
from qalof.cost import cost_of

FULL_BYTES = 4
"""The bits of a number that is not rounded."""


@dataclass(frozen=True)
class Checked:
    """The model that is written, and what its checkpoint says of its task."""

    opened: Opened
    extra: Mapping[str, Any]


class ExportJob(Job[ExportConfig, Checked]):
    """``qalof export``."""

    name = "export"
    config = ExportConfig
    settings = (
        ("Checkpoint", "checkpoint"),
        ("Bitmap", "bitmap"),
        ("Format", "format"),
        ("Bits of the embedding", "embedding_bits"),
        ("Type of other numbers", "float_type"),
    )
    is_about = "A checkpoint at one bitmap, written for a runtime."

    def check(self, config: ExportConfig) -> Checked:
        """Open the checkpoint at the bitmap, and see whether the format has its widths."""
        folder = Path(config.checkpoint)
        extra = read_manifest(folder)["extra"]
        opened = open_for_export(folder, config.bitmap, config.format, config.embedding_bits)
        check_widths(opened, config.format)
        return Checked(opened, extra)

    def work(self, config: ExportConfig, checked: Checked, directory: RunDirectory, run: Run) -> Result:
        """Write the files, and record their bytes."""
        place = directory.path / config.format.place
        result = write_export(checked.opened, place, config.format, config.float_type, checked.extra)
        sizes = {name: float(value) for name, value in result.items() if name.endswith("_bytes")}
        bitmap = checked.opened.asked
        record_bitmap(run, f"{config.format} at {short_name(bitmap)}", bitmap, sizes, self.name)
        run.log_metrics(sizes)
        return result

    def method(self, config: ExportConfig) -> str:
        """Name the format."""
        return str(config.format)

    def describe(self, config: ExportConfig, check: bool) -> str:
        """Name the format, the bitmap and the checkpoint."""
        checked = " (checkpoint and bitmap are good)" if check and self.check(config) else ""
        return f"export: {config.format} at {config.bitmap} of {config.checkpoint}{checked}"

    def estimate(self, step: PlannedStep, trained: TrainConfig | None) -> Estimate | None:
        """Count the bytes: each weight is read, rounded once and written, and no sequence runs."""
        config = step.config
        if trained is None or not isinstance(config, ExportConfig):
            return None
        sites, parameters = sites_of(trained), parameters_of(trained)
        (bitmap,) = parse_bitmaps([config.bitmap], sites)
        rest = parameters - sum(site.weights for site in sites)
        written = cost_of(bitmap, sites).weight_bytes + rest * FULL_BYTES
        return Estimate(read=parameters * FULL_BYTES, written=round(written))

    def findings(self, folder: Path, result: Mapping[str, Any]) -> Exported:
        """Read what was written."""
        return exported(folder, result)

    def section(self, record: Record, step: Step, prefix: str) -> list[Block]:
        """Show what was written as a table."""
        from orchestrate.jobs.export.view import export_table

        return [export_table(step.findings)] if isinstance(step.findings, Exported) else []

    def statements(self, record: Record, step: Step) -> list[Statement]:
        """State what was written, and how large it is."""
        from orchestrate.jobs.export.view import export_statement

        return [export_statement(step.findings)] if isinstance(step.findings, Exported) else []

    def terminal(self, result: Mapping[str, Any], folder: Path) -> list[RenderableType]:
        """Show the bytes of each part, as the command without a config does."""
        from orchestrate.jobs.export.terminal import describe

        return [describe(result)]
