"""``profile``: what a checkpoint takes at each bitmap: bytes in four measures, memory, tokens per second, and the time
of each site at its choice.

One actor does it all, since two that shared a machine would slow each other down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from rich.console import RenderableType

from orchestrate.cluster.evaluation_pool import pool_of, threads_of
from orchestrate.cluster.pool import Pool
from orchestrate.config.base import BitmapSpec
from orchestrate.config.build import parse_bitmaps
from orchestrate.config.sections import JobConfig, OneWorkerConfig, refuse_sharing
from orchestrate.config.train import TrainConfig
from orchestrate.document.blocks import Block, Statement
from orchestrate.document.cell import Cell
from orchestrate.document.estimate import Estimate, forward, parameters_of
from orchestrate.document.planned_step import PlannedStep, bitmap_specs
from orchestrate.document.record import Record, Step
from orchestrate.document.table_config import Place
from orchestrate.jobs.base import Job, Offer, Result
from orchestrate.jobs.profile.findings import Measured, measured
from orchestrate.jobs.shared.checkpoint import open_checkpoint
from orchestrate.jobs.shared.scores import record_bitmap
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.environment import processor_name
from orchestrate.runs.layout import LATENCY_TABLE
from orchestrate.runs.mlflow_tracker import Run
from orchestrate.runs.progress import progress_bar
from qalof.bitmap import Bitmap
from qalof.bitmap_names import short_name, summary
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.cost import MODEL_COSTS, cost_of
from qalof.evaluation.site_latency import latency_table
from qalof.evaluation.speed import speed_of
from qalof.export.compression import MEASURES, compression_of
from qalof.latency import LATENCY, LatencyTable
from qalof.laws import Count
from qalof.model.pretrained import HeadKind
from qalof.paths import InputPath
from qalof.statistics import Interval
from qalof.tasks.factory import TASKS

METRICS = (
    *(f"{measure}_percent" for measure in MEASURES),
    *(f"{measure}_percent_untied" for measure in MEASURES),
    *(f"{measure}_bytes" for measure in MEASURES),
    "memory_bytes",
    "prefill_tokens_per_second",
    "calibration_tokens_per_second",
    "decode_tokens_per_second",
)
"""The measures that a row may have; a ``percent`` is of the fp32 model with a tied head."""


Checked = tuple[OpenCheckpoint, list[Bitmap]]
"""The checkpoint and the bitmaps."""


class ProfileConfig(JobConfig):
    """The config of ``qalof profile``."""

    command: Literal["profile"] = "profile"
    """The command that reads this config."""
    checkpoint: InputPath
    """The folder of the checkpoint; in a pipeline also ``step:NAME``."""
    bitmaps: list[BitmapSpec] = Field([32, 8, 4], min_length=1)
    """The bitmaps at which the checkpoint is measured."""
    measures: list[Literal["size", "speed", "latency"]] = Field(["size", "speed"], min_length=1)
    """What is measured: ``size`` in bytes, ``speed`` in tokens per second along with memory, ``latency`` in seconds of
    each site at its choice in each bitmap, with integer kernels where they exist; the times are written to
    ``latency.json``, which a search takes as a limit."""
    sequences: Count = 8
    """How many sequences a batch has where speed is measured."""
    tokens: Count = 128
    """How many tokens each sequence has; a latency is of one token, as in decoding."""
    new_tokens: Count = 32
    """How many tokens are generated after them."""
    repeats: Count = 3
    """How often each measurement is repeated; the median counts."""
    workers: OneWorkerConfig = OneWorkerConfig()
    """The worker that measures."""

    @model_validator(mode="after")
    def _one_worker(self) -> Self:
        refuse_sharing(self.workers, "a profile")
        return self


class ProfileActor:
    """Holds a checkpoint's model, and measures it at bitmaps."""

    def __init__(self, config: dict[str, Any], checkpoint: OpenCheckpoint, threads: int) -> None:
        torch.set_num_threads(threads)
        self._config = ProfileConfig.model_validate(config)
        self._model = checkpoint.model
        self._model.to(self._config.workers.device)

    def do(self, item: Bitmap | tuple[Bitmap, ...]) -> Any:
        """Measure one bitmap, or the latencies of all choices of several."""
        return self.measured(item) if isinstance(item, Bitmap) else self.latencies(item)

    def measured(self, bitmap: Bitmap) -> dict[str, float]:
        """Measure one bitmap."""
        config, found = self._config, {}
        if "size" in config.measures:
            sizes = compression_of(self._model, bitmap)
            for measure in MEASURES:
                found[f"{measure}_bytes"] = float(getattr(sizes, measure))
                found[f"{measure}_percent"] = sizes.percent(measure)
                found[f"{measure}_percent_untied"] = sizes.percent(measure, tied=False)
        if "speed" in config.measures:
            measured = speed_of(
                self._model,
                bitmap,
                batch_size=config.sequences,
                tokens=config.tokens,
                new_tokens=config.new_tokens,
                repeats=config.repeats,
            )
            speed = asdict(measured)
            found |= {name: float(value) for name, value in speed.items() if value is not None}
        return found

    def latencies(self, bitmaps: Sequence[Bitmap]) -> LatencyTable:
        """Measure the choices of all bitmaps at every site."""
        choices = {name: list(dict.fromkeys(bitmap[name] for bitmap in bitmaps)) for name in bitmaps[0]}
        return latency_table(
            self._model, choices, repeats=self._config.repeats, machine={"processor": processor_name()}
        )


def check(config: ProfileConfig) -> Checked:
    """Open the checkpoint, and read the bitmaps.

    Raises:
        BadInputError: either cannot be used.
    """
    opened = open_checkpoint(config.checkpoint)
    return opened, parse_bitmaps(config.bitmaps, opened.model.sites)


def work(config: ProfileConfig, checked: Checked, directory: RunDirectory, run: Run) -> Result:
    """Measure every bitmap."""
    opened, bitmaps = checked
    sites = opened.model.sites
    arguments = (config.model_dump(), opened, threads_of(config.workers))
    pool = pool_of(ProfileActor, config.workers, *arguments, size=1)
    with closing(pool), progress_bar("profile", len(bitmaps)) as progress:

        def show(index: int, metrics: dict[str, float]) -> None:
            record_bitmap(run, f"profile {short_name(bitmaps[index])}", bitmaps[index], metrics, "profile")
            progress.advance(short_name(bitmaps[index]))

        measured = pool.map(bitmaps, show)
        table = _latencies(pool, config, bitmaps, directory)
    costs = [cost_of(bitmap, sites, rest=opened.model.rest, latency=table) for bitmap in bitmaps]
    timed = [{} if cost.latency_seconds is None else {LATENCY: cost.latency_seconds} for cost in costs]
    rows = [
        {
            "bitmap": str(bitmap),
            "id": bitmap.id,
            "summary": summary(bitmap, sites),
            "metrics": {name: Interval.exact(value).to_json() for name, value in (metrics | more).items()},
            "cost": cost.to_json(),
        }
        for bitmap, metrics, more, cost in zip(bitmaps, measured, timed, costs, strict=True)
    ]
    device = config.workers.device
    return {"task": opened.task.name, "rows": rows, "device": device, "checkpoint": str(Path(config.checkpoint))}


def _latencies(
    pool: Pool[Any, Any], config: ProfileConfig, bitmaps: Sequence[Bitmap], directory: RunDirectory
) -> LatencyTable | None:
    """Measure and write the table of latencies, where it is asked for."""
    if "latency" not in config.measures:
        return None
    table: LatencyTable
    (table,) = pool.map([tuple(bitmaps)])
    table.save(directory.path / LATENCY_TABLE)
    return table


class ProfileJob(Job[ProfileConfig, Checked]):
    """``qalof profile``."""

    name = "profile"
    config = ProfileConfig
    settings = (
        ("Checkpoint", "checkpoint"),
        ("Bitmaps", "bitmaps"),
        ("Sequences", "sequences"),
        ("Tokens per sequence", "tokens"),
        ("New tokens", "new_tokens"),
        ("Runs", "repeats"),
    )
    is_about = "What a checkpoint takes at several bitmaps: bytes, memory and tokens per second."

    def check(self, config: ProfileConfig) -> Checked:
        """Return the checkpoint and the bitmaps."""
        return check(config)

    def work(self, config: ProfileConfig, checked: Checked, directory: RunDirectory, run: Run) -> Result:
        """Measure each bitmap."""
        return work(config, checked, directory, run)

    def estimate(self, step: PlannedStep, trained: TrainConfig | None) -> Estimate | None:
        """Count each measurement as often as it is repeated, and once more to warm up: prefill, prefill with fresh
        weights and, where the model generates, decoding; for latencies, one token through all sites at each bitmap.
        """
        config: Any = step.config
        if trained is None:
            return None
        parameters, runs, found = parameters_of(trained), len(config.bitmaps) * (config.repeats + 1), Estimate()
        if "speed" in config.measures:
            found += forward(2 * runs * config.sequences, config.tokens, parameters)
            if TASKS[trained.task.name][0].head is HeadKind.CAUSAL_LM:
                found += forward(runs * config.sequences, config.tokens + config.new_tokens, parameters)
        if "latency" in config.measures:
            found += forward(runs, 1, parameters)
        return found

    def findings(self, folder: Path, result: Mapping[str, Any]) -> Measured:
        """Read the measures of each bitmap."""
        return measured(folder, result)

    def section(self, record: Record, step: Step, prefix: str) -> list[Block]:
        """Show the measures as a table."""
        from orchestrate.jobs.profile.view import profile_table

        return [profile_table(step.findings)] if isinstance(step.findings, Measured) else []

    def statements(self, record: Record, step: Step) -> list[Statement]:
        """State how small the model is, and how fast."""
        from orchestrate.jobs.profile.view import profile_statements

        return profile_statements(step.findings) if isinstance(step.findings, Measured) else []

    def terminal(self, result: Mapping[str, Any], folder: Path) -> list[RenderableType]:
        """Show the measures by bitmap."""
        from orchestrate.jobs.shared.terminal import score_parts

        return score_parts(result)

    def offers(self, step: PlannedStep, of: str, metrics: Callable[[], Sequence[str]]) -> Offer:
        """Offer the measures, and the costs."""
        config: Any = step.config
        timed = [LATENCY] if "latency" in config.measures else []
        return [str(spec) for spec in bitmap_specs(step)], (*METRICS, *MODEL_COSTS, *timed)

    def cell(self, place: Place, step: PlannedStep) -> Cell:
        """Read a measure or a cost at a bitmap."""
        from orchestrate.jobs.shared.cells import score_cell

        return score_cell(place, step)
