"""``search`` as a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrate.cluster.evaluation_pool import EvaluationPool
from orchestrate.jobs.base import Result
from orchestrate.jobs.search import on_tune as search_job
from orchestrate.jobs.search.config import SearchConfig
from orchestrate.jobs.shared.checkpoint import open_checkpoint
from orchestrate.jobs.shared.scores import record_bitmap
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.mlflow_tracker import Run
from orchestrate.runs.progress import report
from search import BitmapSpace, Score, SearchResult, Study, parse_objectives
from search import run as search_here


def check_search(config: SearchConfig) -> tuple[BitmapSpace, tuple[str, ...]]:
    """The space and the objectives.

    Raises:
        BadInputError: a checkpoint, objective, strategy or option that cannot be used.
    """
    opened = open_checkpoint(config.checkpoint)
    space = BitmapSpace.of(
        opened.model,
        weight=config.space.weight,
        activation=config.space.activation,
        kv=config.space.kv,
        limits=config.limits,
        group=config.space.group,
    )
    objectives = tuple(config.objectives or (opened.task.primary_metric, "weight_bytes"))
    for objective in parse_objectives(objectives):
        objective.check(opened.task.metrics)
    # a study refuses bad objectives, strategies and options when it is made
    Study(space, objectives, config.strategy, max_evaluations=config.max_evaluations, options=config.strategy_options)
    return space, objectives


def search(
    config: SearchConfig, checked: tuple[BitmapSpace, tuple[str, ...]], directory: RunDirectory, run: Run
) -> Result:
    """Search the space, on Ray or in this process, and keep the front."""
    space, objectives = checked
    find: Any = search_job.search
    evaluator: Any = search_job.CheckpointEvaluator(Path(config.checkpoint), config.limit, config.workers)
    if config.workers.in_process:
        find = search_here
        evaluator = EvaluationPool(Path(config.checkpoint), space.sites, config.limit, config.workers)
    with report("search", config.max_evaluations or len(space.units) * 2) as progress:
        done = 0

        def on_score(score: Score) -> None:
            nonlocal done
            done += 1
            metrics = {**score.evaluation.metrics, **score.cost.as_metrics()}
            record_bitmap(run, f"trial {done}", score.bitmap, metrics, "search")
            shown = (f"{name} {value:,.6g}" for name, value in zip(objectives, score.values, strict=True))
            progress.update(done, "  ".join(shown))

        found = find(
            space,
            evaluator,
            objectives,
            config.strategy,
            config.max_evaluations,
            storage=directory.path / "search.jsonl",
            seed=config.seed,
            on_score=on_score,
            options=config.strategy_options,
        )
    found.save(directory.path)
    for name in ("front.json", "front.csv", "front.png", "front_bitmaps.png"):
        run.artifact(directory.path / name)
    run.log_metrics({"evaluations": len(found.points), "front.size": len(found.front_points), **_best(found)})
    return {"evaluations": len(found.points), "front": found.front.to_dict("records"), "strategy": config.strategy}


def _best(found: SearchResult) -> dict[str, float]:
    """The best value of each objective by itself."""
    best = {}
    for index, objective in enumerate(found.objectives):
        values = [point.values[index] for point in found.points]
        best[f"best.{objective.name}"] = objective.sign * max(objective.sign * value for value in values)
    return best
