"""Scoring a checkpoint at bitmaps on a pool of actors, and what is kept of each bitmap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from orchestrate.cluster.evaluation_pool import EvaluationPool
from orchestrate.config.sections import WorkersConfig
from orchestrate.runs.mlflow_tracker import Run
from orchestrate.runs.progress import progress_bar
from qalof.bitmap import Bitmap
from qalof.bitmap_names import short_name, summary
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.cost import Rest, cost_of
from qalof.evaluation.result import Evaluation
from qalof.files import json_ready
from qalof.site import Site


def evaluate_bitmaps(
    checkpoint: OpenCheckpoint,
    sites: Sequence[Site],
    bitmaps: Sequence[Bitmap],
    limit: int | None,
    workers: WorkersConfig,
    run: Run,
    rest: Rest | None = None,
    on_request: Sequence[str] = (),
) -> list[Evaluation]:
    """Score each bitmap on the pool, with a progress bar, and record a child run per bitmap.

    ``rest`` is what the model holds apart from its sites, which counts in totals; ``on_request`` are
    metrics that are measured only where they are asked for.
    """
    pool = EvaluationPool(checkpoint, sites, limit, workers, metrics=on_request)
    with closing(pool), progress_bar("evaluate", len(bitmaps)) as progress:

        def show(index: int, evaluation: Evaluation) -> None:
            shown = "  ".join(f"{name} {value:.2f}" for name, value in evaluation.metrics.items())
            progress.advance(f"{short_name(bitmaps[index])}: {shown}")

        scored = pool.evaluate(bitmaps, on_result=show)
    for bitmap, evaluation in zip(bitmaps, scored, strict=True):
        metrics = {**evaluation.metrics, **cost_of(bitmap, sites, rest=rest).as_metrics()}
        record_bitmap(run, f"bitmap {short_name(bitmap)}", bitmap, metrics, "evaluate")
        log_at(run, bitmap, evaluation.metrics)
    return scored


def rows(
    bitmaps: Sequence[Bitmap], scored: Sequence[Evaluation], sites: Sequence[Site], rest: Rest | None = None
) -> list[dict[str, Any]]:
    """One JSON row per bitmap: metrics as [estimate, low, high] at 95 %, with null where a number is not finite, and
    costs.
    """
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
    """Bitmaps with their whole evaluations, which later serve paired comparisons."""
    whole = [{"bitmap": b.to_json(), "evaluation": e.to_json()} for b, e in zip(bitmaps, scored, strict=True)]
    ready: list[dict[str, Any]] = json_ready(whole)
    return ready


def record_bitmap(run: Run, name: str, bitmap: Bitmap, metrics: Mapping[str, float], command: str) -> None:
    """Record a child run for one bitmap.

    The bitmap itself is a tag: as a parameter it would be one more axis, without an order.
    """
    run.child(name, site_params(bitmap), metrics, {**bitmap_tags(bitmap), "command": command})


def site_params(bitmap: Bitmap) -> dict[str, Any]:
    """Return the parameters of a child run: the weight's bits by site, so a parallel-coordinates plot has one axis per
    site, and the group size of those that have one.
    """
    sizes = {site: bits.group_size for site, bits in bitmap.items() if bits.group_size is not None}
    bits = {site: bits.weight for site, bits in bitmap.items()}
    return {"bits": bits} | ({"group_size": sizes} if sizes else {})


def bitmap_tags(bitmap: Bitmap) -> dict[str, str]:
    """What a child run says of its bitmap: the text, the id under which files hold it, and a line that sums it up."""
    return {"bitmap": str(bitmap), "bitmap_id": bitmap.id, "bitmap_summary": summary(bitmap)}


def log_at(run: Run, bitmap: Bitmap, metrics: Mapping[str, float]) -> None:
    """Record the metrics of a uniform bitmap on the parent run too, as ``f1.at.8``; MLflow's names have no room for
    others.
    """
    if len(set(bitmap.values())) == 1:
        run.log_metrics({f"{name}.at.{bitmap}": value for name, value in metrics.items()})
