"""``evaluate`` and ``sensitivity``: scoring a checkpoint at bitmaps, on a pool of actors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrate.assemble import check_length, parse_bitmaps
from orchestrate.config import EvaluateConfig, SensitivityConfig, WorkersConfig
from orchestrate.evaluation_pool import EvaluationPool
from orchestrate.output_error_job import ErrorPlan, output_errors, plan_of
from orchestrate.progress import report
from orchestrate.run_directory import RunDirectory
from orchestrate.tracking import Run
from qalof.bitmap import PASS_THROUGH, Bitmap
from qalof.bitmap_names import short_name, summary
from qalof.checkpoints import is_packed, load, task_of
from qalof.cost import Rest, cost_of
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.export.packed_model import PackedModel
from qalof.files import json_ready, write_bytes, write_json
from qalof.metrics import DROP
from qalof.model.adapters import SHARED
from qalof.model.sites import Site
from qalof.tasks.base import Task
from search import BitmapSpace, Objective, Score, Study
from search import run as run_search
from search.bitmap_plot import bitmaps_picture, thinned

BITMAPS = "bitmaps.png"
"""A picture of the bitmaps of an evaluation that are not uniform."""


@dataclass(frozen=True)
class Opened:
    """A checkpoint, loaded in the driver to see that it is whole and what it holds."""

    model: Any  # a SwitchableModel; to be evaluated, a PackedModel too
    task: Task


def open_checkpoint(folder: str, other: Mapping[str, Any] | None = None) -> Opened:
    """Load a checkpoint and its task, or the ``other`` one that it is to be scored on.

    Raises:
        BadInputError: missing, damaged, packed, or on a base that cannot be had.
    """
    if is_packed(folder):
        raise BadInputError(
            f"{folder} is a packed model, which has one bitmap and no adapters: only `qalof evaluate` takes it; give "
            "the checkpoint that it was made of"
        )
    opened = Opened(load(folder), task_of(folder, other))
    check_length(opened.task, opened.model.model)
    return opened


def evaluate_bitmaps(
    checkpoint: Path,
    sites: Sequence[Site],
    bitmaps: Sequence[Bitmap],
    limit: int | None,
    workers: WorkersConfig,
    run: Run,
    other: Mapping[str, Any] | None = None,
    rest: Rest | None = None,
    opened: Opened | None = None,
) -> list[Evaluation]:
    """Score each bitmap on the pool, with a bar, and a child run for each.

    ``other``: as for :func:`open_checkpoint`; ``rest``: what the model holds beside its sites, for totals; ``opened``:
    the checkpoint where this process has it open already.
    """
    here = None if opened is None else (opened.model, opened.task)
    pool = EvaluationPool(checkpoint, sites, limit, workers, other, here)
    with report("evaluate", len(bitmaps)) as progress:
        done = 0

        def show(index: int, evaluation: Evaluation) -> None:
            nonlocal done
            done += 1
            shown = "  ".join(f"{name} {value:.2f}" for name, value in evaluation.metrics.items())
            progress.update(done, f"{short_name(bitmaps[index])}: {shown}")

        try:
            scored = pool.evaluate(bitmaps, on_result=show)
        finally:
            pool.close()
    for bitmap, evaluation in zip(bitmaps, scored, strict=True):
        metrics = {**evaluation.metrics, **cost_of(bitmap, sites, rest=rest).as_metrics()}
        record_bitmap(run, f"bitmap {short_name(bitmap)}", bitmap, metrics, "evaluate")
        log_at(run, bitmap, evaluation.metrics)
    return scored


def rows(
    bitmaps: Sequence[Bitmap], scored: Sequence[Evaluation], sites: Sequence[Site], rest: Rest | None = None
) -> list[dict[str, Any]]:
    """One JSON row per bitmap: metrics as [estimate, low, high] at 95 %, null where not finite, and costs."""
    return [
        {
            "bitmap": str(bitmap),
            "id": bitmap.id,
            "summary": summary(bitmap, sites),
            "metrics": {name: evaluation.interval(name).to_json() for name in evaluation.metrics},
            "cost": cost_of(bitmap, sites, rest=rest).to_json(),
            "examples": evaluation.examples,
            "counts": dict(evaluation.counts),
        }
        for bitmap, evaluation in zip(bitmaps, scored, strict=True)
    ]


def per_example(bitmaps: Sequence[Bitmap], scored: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Bitmaps with their whole evaluations, for paired comparisons later."""
    whole = [{"bitmap": b.to_json(), "evaluation": e.to_json()} for b, e in zip(bitmaps, scored, strict=True)]
    ready: list[dict[str, Any]] = json_ready(whole)
    return ready


def record_bitmap(run: Run, name: str, bitmap: Bitmap, metrics: Mapping[str, float], command: str) -> None:
    """A child run for one bitmap.

    One parameter a site, so that a parallel-coordinates plot has an axis for each; the bitmap itself is a tag,
    since as a parameter it would be one more axis, without an order.
    """
    params = {"bits": {site: bits.weight for site, bits in bitmap.items()}}
    run.child(name, params, metrics, {**bitmap_tags(bitmap), "command": command})


def bitmap_tags(bitmap: Bitmap) -> dict[str, str]:
    """What a child run says of its bitmap: the text, the id under which files hold it, and a line that sums it up."""
    return {"bitmap": str(bitmap), "bitmap_id": bitmap.id, "bitmap_summary": summary(bitmap)}


def log_at(run: Run, bitmap: Bitmap, metrics: Mapping[str, float]) -> None:
    """The metrics of a uniform bitmap on the parent run too, as ``f1.at.8``; MLflow's names have no room for others."""
    if len(set(bitmap.values())) == 1:
        run.log_metrics({f"{name}.at.{bitmap}": value for name, value in metrics.items()})


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


def check_sensitivity(config: SensitivityConfig) -> tuple[BitmapSpace, str, dict[str, Any]] | ErrorPlan:
    """The space, the metric, and the strategy's options; or what output errors are measured of.

    Raises:
        BadInputError: a checkpoint, width or unit that cannot be used.
    """
    opened = open_checkpoint(config.checkpoint)
    if config.score == "output_error":
        return plan_of(config, opened.task)
    above = [bits for bits in config.widths if bits >= config.reference]
    if above:
        raise BadInputError(f"lowered must hold widths below the reference {config.reference}: got {above[0]}")
    space = BitmapSpace.of(opened.model, weight=[*config.widths, config.reference], group=config.unit)
    objective = Objective.parse(config.metric or opened.task.primary_metric)
    objective.check(opened.task.metrics)
    if objective.on_purpose or objective.is_cost:
        raise BadInputError(f"metric must be one of {', '.join(opened.task.metrics)}, by its name: got {objective}")
    metric, options = objective.name, {"reference": config.reference}
    Study(space, [metric], "one_at_a_time", max_evaluations=None, options=options)
    return space, metric, options


def sensitivity(
    config: SensitivityConfig,
    checked: tuple[BitmapSpace, str, dict[str, Any]] | ErrorPlan,
    directory: RunDirectory,
    run: Run,
) -> dict[str, Any]:
    """Rank the units by what lowering each alone costs (S1's one-at-a-time analysis), or by output errors (S2)."""
    if isinstance(checked, ErrorPlan):
        return output_errors(config, checked, directory, run)
    space, metric, options = checked
    total = 1 + len(space.units) * len(config.lowered)
    pool = EvaluationPool(Path(config.checkpoint), space.sites, config.limit, config.workers)
    with report("sensitivity", total) as progress:
        done = 0

        def show(score: Score) -> None:
            nonlocal done
            done += 1
            metrics = {**score.evaluation.metrics, **score.cost.as_metrics()}
            record_bitmap(run, _lowered(score.bitmap, config.reference), score.bitmap, metrics, "sensitivity")
            progress.update(done, f"{metric} {score.evaluation[metric]:.2f}")

        try:
            found = run_search(
                space,
                pool,
                [metric],
                "one_at_a_time",
                max_evaluations=None,
                storage=directory.path / "evaluations.jsonl",
                on_score=show,
                options=options,
            )
        finally:
            pool.close()
    reference = found.points[0].metrics[metric]
    drops = [row[f"{metric}{DROP}"] for row in found.trace]
    run.log_metrics({f"{metric}.reference": reference.estimate, f"{metric}.largest_drop": max(drops)})
    return {
        "metric": metric,
        "reference": {"bits": config.reference, metric: reference.to_json()},
        "ranking": [dict(row) for row in found.trace],
    }


def _lowered(bitmap: Bitmap, reference: int) -> str:
    """What distinguishes a bitmap from the uniform one at ``reference`` bits, as a run's name."""
    lowered = {site: bits.weight for site, bits in bitmap.items() if bits.weight != reference}
    if not lowered:
        return f"all at {reference}"
    sites = list(lowered)
    return f"{sites[0]}{' ...' if len(sites) > 1 else ''} at {lowered[sites[0]]}"
