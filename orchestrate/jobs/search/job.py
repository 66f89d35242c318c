"""``search`` as a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import RenderableType

from orchestrate.cluster.evaluation_pool import EvaluationPool
from orchestrate.config.train import TrainConfig
from orchestrate.document.blocks import Block, Statement
from orchestrate.document.cell import Cell
from orchestrate.document.estimate import Estimate, scored_at, sites_of
from orchestrate.document.formats import by_magnitude, count_of
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.record import Record, Step
from orchestrate.document.table_config import Place
from orchestrate.document.terminal import size
from orchestrate.jobs.base import Job, Offer, Result
from orchestrate.jobs.search.config import SearchConfig
from orchestrate.jobs.search.findings import Searched, searched
from orchestrate.jobs.search.judging import check_judge, judged
from orchestrate.jobs.search.resolving import resolved
from orchestrate.jobs.shared.checkpoint import open_checkpoint
from orchestrate.jobs.shared.labels import tell_labels
from orchestrate.jobs.shared.scores import record_bitmap
from orchestrate.jobs.shared.settings import CHECKPOINT_SETTINGS
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import FRONT, FRONT_BITMAPS, FRONT_PICTURE, FRONT_TABLE, SEARCH_RECORD
from orchestrate.runs.mlflow_tracker import Run
from orchestrate.runs.progress import progress_bar
from qalof.attacks.robustness.adversarial_accuracy import AdversarialAccuracy
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.metrics import ADVERSARIAL_ACCURACY
from search import BitmapSpace, Objective, Score, SearchResult, Study, parse_objectives
from search import run as search_in_process
from search.evaluator import GUIDED, requests_of, strategy_for
from search.grouping import Grouping
from search.menu import DEFAULT_WIDTHS
from search.metric_limit import parted
from search.scores.data import why_unscored
from search.strategies import too_few, unguided


class Checked(NamedTuple):
    """What a search works on.

    Attributes:
        opened: the checkpoint.
        space: the space.
        objectives: the objectives.
        strategy: the strategy, and why it is not ``guided`` where none is named, or has few evaluations.
        judge: the checkpoint with the task of the examples that judge; None where nothing is judged.
    """

    opened: OpenCheckpoint
    space: BitmapSpace
    objectives: tuple[str, ...]
    strategy: tuple[str, str]
    judge: OpenCheckpoint | None


def check_search(config: SearchConfig) -> Checked:
    """Open the checkpoint, and find the space and the objectives.

    Raises:
        BadInputError: a checkpoint, objective, strategy or option cannot be used.
    """
    opened = open_checkpoint(config.checkpoint)
    tell_labels(opened.task)
    costs, metric_limits = parted(config.limits)
    space = BitmapSpace.of(opened.model, limits=costs, latency=config.latency, **config.space.of_space())
    objectives = tuple(config.objectives or (opened.task.primary_metric, "weight_bytes"))
    for objective in parse_objectives(objectives):
        objective.check(opened.task.metrics)
    for limit in metric_limits:
        limit.check(opened.task.metrics)
    if ADVERSARIAL_ACCURACY in requests_of(objectives, metric_limits):
        AdversarialAccuracy(opened.model, opened.task, config.robustness.settings)
    # a study refuses bad objectives, strategies and options when it is made
    strategy = strategy_for(why_unscored(opened.task)) if config.strategy is None else (config.strategy, "")
    few = too_few(strategy[0], config.max_evaluations, len(space.units))
    strategy = strategy[0], "; ".join(filter(None, (strategy[1], few, unguided(strategy[0], objectives))))
    Study(space, objectives, strategy[0], max_evaluations=config.max_evaluations, options=config.strategy_options)
    return Checked(opened, space, objectives, strategy, None if config.judge is None else check_judge(config, opened))


def search(config: SearchConfig, checked: Checked, directory: RunDirectory, run: Run) -> Result:
    """Search the space, on Ray or in this process, and keep the front."""
    opened, space, objectives, (strategy, why), other = checked
    if not config.workers.in_process:
        opened.drop_model()
        if other is not None:
            other.drop_model()
    resolution = None if config.resolve is None else resolved(config, opened, space, objectives, directory)
    limit = config.limit if resolution is None else int(resolution["examples"])
    find, evaluator = _means(config, opened, space, limit)
    with progress_bar("search", config.max_evaluations or len(space.units) * 2) as progress:
        done = 0

        def on_score(score: Score) -> None:
            nonlocal done
            done += 1
            metrics = {**score.evaluation.metrics, **score.cost.as_metrics()}
            record_bitmap(
                run, f"trial {done}", score.bitmap, metrics, "search", sites=space.sites, span=score.evaluation.span,
                identity=f"bitmap {score.bitmap}",
            )  # fmt: skip
            progress.update(done, "  ".join(map(_shown, parse_objectives(objectives), score.values)))

        found = find(
            space,
            evaluator,
            objectives,
            strategy,
            config.max_evaluations,
            limits=config.limits,
            storage=directory.path / SEARCH_RECORD,
            seed=config.seed,
            on_score=on_score,
            options=config.strategy_options,
            max_failures_in_a_row=config.max_failures_in_a_row,
        )
    found.save(directory.path)
    for name in (FRONT, FRONT_TABLE, FRONT_PICTURE, FRONT_BITMAPS):
        run.artifact(directory.path / name)
    run.log_metrics(
        {
            "evaluations": len(found.points),
            "failures": len(found.failures),
            "front.size": len(found.front_points),
            **_best(found),
        }
    )
    failures = [{"id": one.bitmap.id, "summary": one.summary, "reason": one.failure} for one in found.failures]
    return {
        "evaluations": len(found.points),
        "front": found.front.to_dict("records"),
        "strategy": strategy,
        "strategy_note": why,
        "resolution": resolution,
        "judgement": None if other is None else judged(config, other, space, found, directory),
        "failures": failures,
        "breaking": [{"id": one.bitmap.id, "breaks": one.breaks} for one in found.breaking],
    }


def _means(config: SearchConfig, opened: OpenCheckpoint, space: BitmapSpace, limit: int | None) -> tuple[Any, Any]:
    """Return the function that searches and the evaluator it takes, in this process or on Ray Tune."""
    if config.workers.in_process:
        pool = EvaluationPool(opened, space.sites, limit, config.workers, robustness=config.robustness.settings)
        return search_in_process, pool
    from orchestrate.jobs.search import on_tune

    return on_tune.search, on_tune.CheckpointEvaluator(opened, limit, config.workers, config.robustness.settings)


def _shown(objective: Objective, value: float) -> str:
    return f"{objective.name} {size(value) if objective.name.endswith('_bytes') else by_magnitude(value)}"


def _best(found: SearchResult) -> dict[str, float]:
    """Return the best value of each objective by itself."""
    best = {}
    for index, objective in enumerate(found.objectives):
        values = [point.values[index] for point in found.points if not point.failure]
        if not values:
            continue
        best[f"best.{objective.name}"] = objective.sign * max(objective.sign * value for value in values)
    return best


class SearchJob(Job[SearchConfig, Checked]):
    """``qalof search``."""

    name = "search"
    config = SearchConfig
    settings = (
        *CHECKPOINT_SETTINGS,
        ("Strategy", "strategy"),
        ("Options", "strategy_options"),
        ("Objectives", "objectives"),
        ("Widths", "space"),
        ("Limits", "limits"),
        ("Attack", "robustness"),
        ("Evaluations at most", "max_evaluations"),
        ("Judged on", "judge"),
        ("Seed", "seed"),
    )
    record = (SEARCH_RECORD, "evaluation")
    carried = (SEARCH_RECORD,)
    is_about = "A search over bitmaps for the front of quality against cost."

    def check(self, config: SearchConfig) -> Checked:
        """Return the checkpoint, the space, the objectives and the strategy."""
        return check_search(config)

    def work(self, config: SearchConfig, checked: Checked, directory: RunDirectory, run: Run) -> Result:
        """Search, and keep the front."""
        return search(config, checked, directory, run)

    def method(self, config: SearchConfig) -> str:
        """Name the strategy."""
        return config.strategy or GUIDED

    def describe(self, config: SearchConfig, check: bool) -> str:
        """Name the strategy, and say how many evaluations it may make."""
        checked = " (checkpoint and space are good)" if check and self.check(config) else ""
        most = "as many" if config.max_evaluations is None else f"up to {config.max_evaluations}"
        name = config.strategy or GUIDED
        return f"search: {name}, {most} evaluations on {count_of(config.workers.count, 'actor')}{checked}"

    def estimate(self, step: PlannedStep, trained: TrainConfig | None) -> Estimate | None:
        """Count as many evaluations as the config allows, or as greedy makes."""
        if trained is None:
            return None
        config: Any = step.config
        grouping = Grouping(config.space.group, tuple(config.space.tied))
        units = len(grouping.units([site.name for site in sites_of(trained)]))
        # greedy measures every step down once, and then tries it once
        greedy = 1 + 2 * units * (len(config.space.weight or DEFAULT_WIDTHS) - 1)
        return scored_at(trained, trained.task, config.limit, config.max_evaluations or greedy)

    def findings(self, folder: Path, result: Mapping[str, Any]) -> Searched:
        """Read all evaluated bitmaps, and the front."""
        return searched(folder, result)

    def section(self, record: Record, step: Step, prefix: str) -> list[Block]:
        """Show the front as a drawing and as a table, its bitmaps, and how the finalists did on other examples."""
        from orchestrate.jobs.search.view import search_blocks

        return search_blocks(record, step, prefix)

    def statements(self, record: Record, step: Step) -> list[Statement]:
        """Compare the front with full precision and uniform bitmaps."""
        from orchestrate.jobs.search.sentences import search_statements

        return search_statements(record, step)

    def terminal(self, result: Mapping[str, Any], folder: Path) -> list[RenderableType]:
        """Show the front, the judgement, and what could not be evaluated."""
        from orchestrate.jobs.search.terminal import front_table, judged_table, notes

        return [front_table(result, folder), *judged_table(result), *notes(result)]

    def offers(self, step: PlannedStep, of: str, metrics: Callable[[], Sequence[str]]) -> Offer:
        """Offer the first and the last bitmap that greedy kept, and counts of its steps."""
        from orchestrate.jobs.search.cells import offered

        return offered(of, metrics)

    def cell(self, place: Place, step: PlannedStep) -> Cell:
        """Read a metric or cost of such a bitmap, or a count of steps."""
        from orchestrate.jobs.search.cells import search_cell

        return search_cell(place, step)
