"""``ptq``: what quantization without training gives, method by method.

An actor takes a method: it loads the model with the method's quantizers, calibrates what needs it, writes a checkpoint
and scores it at the method's bitmaps.  Each method's outcome is a file, so a run that was stopped does only what is
missing.  The checkpoints below ``methods/NAME`` serve ``search``, ``sensitivity`` and ``export`` like trained ones.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import RenderableType

import qalof
from orchestrate.cluster.evaluation_pool import pool_of, threads_of
from orchestrate.config.build import parse_bitmaps
from orchestrate.config.loader import to_plain
from orchestrate.config.train import TrainConfig
from orchestrate.document.blocks import Block, Statement
from orchestrate.document.cell import Cell
from orchestrate.document.estimate import Estimate, scored_at
from orchestrate.document.formats import duration
from orchestrate.document.planned_step import PlannedStep, bitmap_specs
from orchestrate.document.record import Record, Step
from orchestrate.document.table_config import Place
from orchestrate.jobs.base import Job, Result
from orchestrate.jobs.ptq.config import MethodConfig, PtqConfig
from orchestrate.jobs.ptq.findings import PtqScores, ptq_scores
from orchestrate.jobs.shared.checkpoint import open_checkpoint
from orchestrate.jobs.shared.labels import tell_labels
from orchestrate.jobs.shared.scores import record_bitmap, rows
from orchestrate.jobs.shared.settings import CHECKPOINT_SETTINGS
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import METHODS, OUTCOME
from orchestrate.runs.mlflow_tracker import Run
from orchestrate.runs.progress import progress_bar
from qalof.bitmap import Bitmap
from qalof.bitmap_names import short_name
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.cost import cost_of
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.files import json_ready, read_json, write_json
from qalof.layer_bits import GroupedWidth, WeightWidth, bits_of, width_order
from qalof.model.calibration import calibrate
from qalof.model.pretrained import BaseModel
from qalof.model.quantizer_state import quantizers_of
from qalof.model.switchable import SwitchableModel, build
from qalof.post_training.gptq import calibration_batches, compensate
from qalof.quantization.scheme import QuantizationScheme, TensorScheme
from qalof.site import Site
from qalof.statistics import paired_difference
from qalof.tasks.base import Task
from qalof.tasks.factory import describe_task, make_task
from qalof.tasks.parts import evaluate_in_parts


@dataclass(frozen=True)
class Checked:
    """What the driver found out: the sites, the task, and each method's bitmaps."""

    opened: OpenCheckpoint | None
    sites: tuple[Site, ...]
    task: Task
    bitmaps: tuple[tuple[Bitmap, ...], ...]


class MethodActor:
    """Carries out methods of one config in a process of its own."""

    def __init__(self, config: Mapping[str, Any], opened: OpenCheckpoint | None, threads: int) -> None:
        torch.set_num_threads(threads)
        self._opened = opened
        self._config = PtqConfig.model_validate(config)

    def do(self, item: tuple[int, Sequence[Bitmap], str]) -> dict[str, Any]:
        """Carry out method ``index`` and score it at ``bitmaps``; its checkpoint goes below ``folder``."""
        index, bitmaps, folder = item
        started = time.monotonic()
        config, method = self._config, self._config.methods[index]
        task = _task(config, self._opened)
        model = _model(config, self._opened, task, method.quantization)
        model.to(config.workers.device)
        errors = _calibrate(model, task, config, method, bitmaps)
        qalof.save(model, Path(folder) / "checkpoint", {"task": describe_task(task)})
        found = []
        for bitmap in bitmaps:
            model.set_bitmap(bitmap)
            began = time.time()
            found.append({**evaluate_in_parts(task, model, config.limit).to_json(), "span": [began, time.time()]})
        # the model is priced here, since its learned steps and observed ranges are nowhere else
        costs = [cost_of(bitmap, model.sites, rest=model.rest).to_json() for bitmap in bitmaps]
        seconds = round(time.monotonic() - started, 1)
        return dict(json_ready({"evaluations": found, "costs": costs, "gptq": errors, "seconds": seconds}))


def check(config: PtqConfig) -> Checked:
    """Check that everything can be had, before any worker starts.

    Raises:
        BadInputError: a model, task, bitmap or quantizer cannot be used.
    """
    opened = None if config.checkpoint is None else open_checkpoint(config.checkpoint)
    task = _task(config, opened)
    if opened is not None:
        tell_labels(task)
        sites = opened.model.sites
        opened.drop_model()  # each method makes a model of its own
    else:
        switch = config.switch
        pretrained = BaseModel(config.model.source, task.head, config.model.seed, task.labels).load()
        sites = switch.sites_of(pretrained)
    bitmaps = []
    for method in config.methods:
        parsed = parse_bitmaps(method.bitmaps or config.bitmaps, sites)
        for bitmap in parsed:
            _check_widths(method, bitmap, sites)
        bitmaps.append(tuple(parsed))
    return Checked(opened, sites, task, tuple(bitmaps))


def work(config: PtqConfig, checked: Checked, directory: RunDirectory, run: Run) -> dict[str, Any]:
    """Carry out all methods, and return one row per method and bitmap."""
    folders = [directory.path / METHODS / method.name for method in config.methods]
    missing = [index for index, folder in enumerate(folders) if not (folder / OUTCOME).is_file()]
    if missing:
        _carry_out(config, checked, folders, missing)
    found: list[dict[str, Any]] = []
    for index, (method, folder) in enumerate(zip(config.methods, folders, strict=True)):
        outcome = read_json(folder / OUTCOME, "outcome of a method")
        scored = [Evaluation.from_json(each) for each in outcome["evaluations"]]
        # each method is priced as its own quantizers store it
        sites = [replace(site, quantization=method.quantization) for site in checked.sites]
        made = rows(checked.bitmaps[index], scored, sites)
        for row, bitmap, evaluation, cost in zip(made, checked.bitmaps[index], scored, outcome["costs"], strict=True):
            row["cost"] = {**cost, "stored_weight_bytes": cost["weight_bytes"]}
            found.append({"method": method.name, "kind": method.kind, **row, "evaluation": evaluation})
            _record(run, method, bitmap, evaluation, row["cost"])
    reference = config.reference or config.methods[0].name
    _compare(found, reference)
    return {"task": checked.task.name, "reference": reference, "rows": found}


def _carry_out(config: PtqConfig, checked: Checked, folders: Sequence[Path], missing: Sequence[int]) -> None:
    workers = config.workers
    items = [(index, checked.bitmaps[index], str(folders[index])) for index in missing]
    arguments = (to_plain(config), checked.opened, threads_of(workers))
    pool = pool_of(MethodActor, workers, *arguments, size=min(workers.count, len(items)))
    with closing(pool), progress_bar("ptq", len(items)) as progress:

        def keep(place: int, outcome: dict[str, Any]) -> None:
            index = missing[place]
            write_json(folders[index] / OUTCOME, outcome)
            progress.advance(f"{config.methods[index].name}: {duration(outcome['seconds'])}")

        pool.map(items, keep)


def _task(config: PtqConfig, opened: OpenCheckpoint | None) -> Task:
    if opened is not None:
        return opened.task
    assert config.task is not None
    return make_task(config.task.name, config.task.settings, config.model.source)


def _model(
    config: PtqConfig, opened: OpenCheckpoint | None, task: Task, quantization: QuantizationScheme
) -> SwitchableModel:
    if opened is not None:
        return opened.fresh_model(quantization)
    base = BaseModel(config.model.source, task.head, config.model.seed, task.labels)
    return build(base, {}, replace(config.switch, quantization=quantization)).eval()


def _calibrate(
    model: SwitchableModel, task: Task, config: PtqConfig, method: MethodConfig, bitmaps: Sequence[Bitmap]
) -> list[dict[str, Any]]:
    """Make GPTQ's codes first, since static ranges depend on them, and return GPTQ's errors by site."""
    stateful = any(True for _ in quantizers_of(model.model))
    if method.kind == "rtn" and not stateful:
        return []
    chosen = config.calibration
    batches = calibration_batches(task, chosen.examples, batch_size=chosen.batch_size, seed=chosen.seed)
    errors = []
    if method.kind == "gptq":
        errors = compensate(model, batches, _compensated_widths(method, bitmaps), method.gptq)
    if stateful:
        device = model.device
        calibrate(model, [{k: t.to(device) for k, t in batch.items()} for batch in batches], bitmaps)
    return [asdict(each) for each in errors]


def _compensated_widths(method: MethodConfig, bitmaps: Sequence[Bitmap]) -> list[int | GroupedWidth]:
    scheme = method.quantization.weight
    widths = {layer.weight_width for bitmap in bitmaps for layer in bitmap.values()}
    below = [width for width in widths if bits_of(width) < scheme.at(width).full_precision_bits]
    return sorted(below, key=width_order, reverse=True)


def _check_widths(method: MethodConfig, bitmap: Bitmap, sites: Sequence[Site]) -> None:
    scheme = method.quantization
    for site, layer in zip(sites, bitmap.values(), strict=True):
        used: list[tuple[TensorScheme, WeightWidth]] = [(scheme.weight, layer.weight_width)]
        used.append((scheme.activation, layer.activation))
        used += ((scheme.kv, bits) for bits in site.kv_widths(layer.kv))
        for tensor, width in used:
            try:
                quantizer = tensor.at(width)
                if bits_of(width) >= quantizer.full_precision_bits:
                    continue
                quantizer.check_bits(bits_of(width))
                if tensor is not scheme.kv:
                    quantizer.check_shape(site.in_features)
            except BadInputError as error:
                raise BadInputError(f"method {method.name} at {bitmap}: {error}; give it bitmaps of its own") from None


def _compare(found: Sequence[dict[str, Any]], reference: str) -> None:
    """Add each row's paired difference to the reference's row at its bitmap, where both scored example by example."""
    base = {row["bitmap"]: row["evaluation"].per_example for row in found if row["method"] == reference}
    for row in found:
        mine, theirs = row.pop("evaluation").per_example, base.get(row["bitmap"], {})
        row["difference"] = {}
        for name in mine if row["method"] != reference else ():
            if name in theirs:
                row["difference"][name] = paired_difference(mine[name], theirs[name]).to_json()


def _record(run: Run, method: MethodConfig, bitmap: Bitmap, evaluation: Evaluation, cost: Mapping[str, Any]) -> None:
    metrics = {**evaluation.metrics, **{name: value for name, value in cost.items() if isinstance(value, int | float)}}
    name, more = f"{method.name} at {short_name(bitmap)}", {"method": method.name, "kind": method.kind}
    record_bitmap(run, name, bitmap, metrics, "ptq", span=evaluation.span, more=more)


class PtqJob(Job[PtqConfig, Checked]):
    """``qalof ptq``."""

    name = "ptq"
    config = PtqConfig
    settings = (
        *CHECKPOINT_SETTINGS,
        ("Model", "model.source"),
        ("Task", "task.name"),
        ("Bitmaps", "bitmaps"),
        ("Calibration", "calibration"),
    )
    is_about = "Quantization without training, by several methods, scored on the same examples."

    def method(self, config: PtqConfig) -> str:
        """Name the methods that are compared."""
        return ", ".join(method.name for method in config.methods)

    def check(self, config: PtqConfig) -> Checked:
        """Find the model, the task, and each method's bitmaps."""
        return check(config)

    def work(self, config: PtqConfig, checked: Checked, directory: RunDirectory, run: Run) -> Result:
        """Carry out every method, and compare them."""
        return work(config, checked, directory, run)

    def estimate(self, step: PlannedStep, trained: TrainConfig | None) -> Estimate | None:
        """Count one pass over the examples per bitmap."""
        if trained is None:
            return None
        config: Any = step.config
        return scored_at(trained, trained.task, config.limit, len(bitmap_specs(step)) or 1)

    def findings(self, folder: Path, result: Mapping[str, Any]) -> PtqScores:
        """Read the scores of each method at each bitmap."""
        return ptq_scores(folder, result)

    def section(self, record: Record, step: Step, prefix: str) -> list[Block]:
        """Show scores by bits, with one line per method."""
        from orchestrate.jobs.ptq.view import ptq_blocks

        return ptq_blocks(step.findings, prefix) if isinstance(step.findings, PtqScores) else []

    def statements(self, record: Record, step: Step) -> list[Statement]:
        """State the scores by method, and what differs."""
        from orchestrate.jobs.ptq.view import ptq_statements

        return ptq_statements(step.findings) if isinstance(step.findings, PtqScores) else []

    def terminal(self, result: Mapping[str, Any], folder: Path) -> list[RenderableType]:
        """Show the scores by method and bitmap."""
        from orchestrate.jobs.ptq.terminal import ptq_table

        return [ptq_table(result)]

    def cell(self, place: Place, step: PlannedStep) -> Cell:
        """Read a metric or a cost at a bitmap."""
        from orchestrate.jobs.shared.cells import score_cell

        return score_cell(place, step)
