"""Scoring a checkpoint at bitmaps on a pool of actors, and what is kept of each bitmap."""

from __future__ import annotations

import json
from collections import Counter
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
from qalof.layer_bits import KeyValueWidth, KvWidth
from qalof.site import Site

MOST_SITES = 300
"""A model with more sites has no parameter per site in MLflow, whose pages show no more."""


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
        name = f"bitmap {short_name(bitmap)}"
        record_bitmap(run, name, bitmap, metrics, "evaluate", sites=sites, span=evaluation.span)
        log_at(run, bitmap, evaluation.metrics)
    return scored


def rows(
    bitmaps: Sequence[Bitmap], scored: Sequence[Evaluation], sites: Sequence[Site], rest: Rest | None = None
) -> list[dict[str, Any]]:
    """Return one JSON row per bitmap: metrics as [estimate, low, high] at 95 %, with null where a number is not finite,
    and costs.
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
    """Return bitmaps with their whole evaluations, which later serve paired comparisons."""
    whole = [{"bitmap": b.to_json(), "evaluation": e.to_json()} for b, e in zip(bitmaps, scored, strict=True)]
    ready: list[dict[str, Any]] = json_ready(whole)
    return ready


def record_bitmap(
    run: Run, name: str, bitmap: Bitmap, metrics: Mapping[str, float], command: str, *,
    sites: Sequence[Site] | None = None, span: tuple[float, float] | None = None, identity: str | None = None,
    more: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Record a child run for one bitmap.

    The bitmap itself is a tag, and whole in a file: as a parameter it would be one more axis, without an order.

    Args:
        run: the run of the command.
        name: what the list of runs shows.
        bitmap: the bitmap.
        metrics: its values.
        command: the command, for the tag.
        sites: of its model, which weight the shares of a summary; None counts sites instead.
        span: when it began and ended; None for now.
        identity: what no other child has; None takes the name.
        more: further parameters, which are tags too, such as the method.
    """
    tags = {**bitmap_tags(bitmap), "command": command, **(more or {})}
    files = {"bitmap.json": json.dumps(bitmap.to_json(), indent=2)}
    params = {**(more or {}), **site_params(bitmap, sites)}
    run.child(name, params, metrics, tags, span=span, identity=identity, files=files)


def site_params(bitmap: Bitmap, sites: Sequence[Site] | None = None) -> dict[str, Any]:
    """Return the parameters of a child run.

    ``bits.weight.SITE`` has the weight's bits, so a parallel-coordinates plot has one axis per site.  Widths of
    activations and of the KV cache are one number where all sites have the same, and otherwise ``bits.activation.SITE``
    and ``bits.kv.SITE``, where keys at 8 and values at 4 read ``k8v4``; ``group_size.SITE`` is there where a site has
    one.  ``summary`` has the average bits and the share of weights at each width.  A model with more than
    :data:`MOST_SITES` sites has the summary alone: its bitmap is in the file.
    """
    known = {site.name: site for site in sites or ()}
    sizes = {name: known[name].weights if known else 1 for name in bitmap}
    cached = {name for name in bitmap if not known or known[name].kv_features}
    total, at = sum(sizes.values()), Counter[str]()
    for name, bits in bitmap.items():
        at[str(bits.weight)] += sizes[name]
    average = sum(bits.weight * sizes[name] for name, bits in bitmap.items()) / total
    shares = {width: round(at[width] / total, 4) for width in sorted(at, key=int)}
    widths = {
        "weight": {name: bits.weight for name, bits in bitmap.items()},
        "activation": _one_or_all({name: bits.activation for name, bits in bitmap.items()}),
        "kv": _one_or_all({name: _param(bits.kv) for name, bits in bitmap.items() if name in cached}),
    }
    few = len(bitmap) <= MOST_SITES
    sized = {name: bits.group_size for name, bits in bitmap.items() if bits.group_size is not None}
    return {
        "bits": widths if few else {role: bits for role, bits in widths.items() if not isinstance(bits, dict)},
        "summary": {"average_bits": round(average, 4), "weights_at": shares},
    } | ({"group_size": sized} if sized and few else {})


def _param(width: KvWidth) -> int | str:
    return str(width) if isinstance(width, KeyValueWidth) else width


def _one_or_all(widths: Mapping[str, int | str]) -> int | str | dict[str, int | str]:
    return dict(widths) if len(set(widths.values())) != 1 else next(iter(widths.values()))


def bitmap_tags(bitmap: Bitmap) -> dict[str, str]:
    """Return what a child run says of its bitmap: the text, the id under which files hold it, and a line that sums it
    up.
    """
    return {"bitmap": str(bitmap), "bitmap_id": bitmap.id, "bitmap_summary": summary(bitmap)}


def log_at(run: Run, bitmap: Bitmap, metrics: Mapping[str, float]) -> None:
    """Record the metrics of a uniform bitmap on the parent run too, as ``f1.at.8``; MLflow's names have no room for
    others.
    """
    if len(set(bitmap.values())) == 1:
        run.log_metrics({f"{name}.at.{bitmap}": value for name, value in metrics.items()})
