"""``sensitivity``: what each unit loses when it alone is rounded to fewer bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrate.cluster.evaluation_pool import EvaluationPool
from orchestrate.jobs.sensitivity.config import SensitivityConfig
from orchestrate.jobs.sensitivity.output_error import ErrorPlan, output_errors, plan_of
from orchestrate.jobs.shared.checkpoint import open_checkpoint
from orchestrate.jobs.shared.scores import record_bitmap
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.mlflow_tracker import Run
from orchestrate.runs.progress import report
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.metrics import DROP
from search import BitmapSpace, Objective, Score, Study
from search import run as run_search


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
