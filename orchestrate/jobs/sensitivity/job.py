"""``sensitivity``: what each unit loses when it alone is rounded to fewer bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from orchestrate.cluster.evaluation_pool import EvaluationPool
from orchestrate.config.train import TrainConfig
from orchestrate.document.blocks import Block, Plot, Statement
from orchestrate.document.cell import Cell
from orchestrate.document.estimate import (
    Estimate,
    blocks_of,
    forward,
    parameters_of,
    scored_at,
    sequence_tokens,
    sites_of,
)
from orchestrate.document.planned_step import PlannedStep
from orchestrate.document.record import Record, Step
from orchestrate.document.table_config import Place
from orchestrate.jobs.base import Job, Offer, Result
from orchestrate.jobs.sensitivity.config import SensitivityConfig
from orchestrate.jobs.sensitivity.findings import Ranked, ranked
from orchestrate.jobs.sensitivity.output_error import EXAMPLES, ErrorPlan, output_errors, plan_of
from orchestrate.jobs.sensitivity.output_error_view import OutputErrors
from orchestrate.jobs.sensitivity.table_scores import TablePlan, table_plan, table_scores
from orchestrate.jobs.sensitivity.table_view import TableScores
from orchestrate.jobs.shared.checkpoint import open_checkpoint
from orchestrate.jobs.shared.labels import tell_labels
from orchestrate.jobs.shared.scores import record_bitmap
from orchestrate.jobs.shared.settings import CHECKPOINT_SETTINGS
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import EVALUATION_RECORD
from orchestrate.runs.mlflow_tracker import Run
from orchestrate.runs.progress import progress_bar
from qalof.bitmap import Bitmap
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.errors import BadInputError
from qalof.metrics import DROP
from search import BitmapSpace, Objective, Score, Study
from search import run as run_search
from search.scores.data import TOKENS

Plan = tuple[OpenCheckpoint, BitmapSpace, str, dict[str, Any]] | ErrorPlan | TablePlan
"""The checkpoint, the space, the metric, and the strategy's options; or what output errors or tables are made of."""


def check_sensitivity(config: SensitivityConfig) -> Plan:
    """Open the checkpoint; find space, metric and the strategy's options, or what errors or tables are made of.

    Raises:
        BadInputError: a checkpoint, width or unit cannot be used.
    """
    opened = open_checkpoint(config.checkpoint)
    tell_labels(opened.task)
    if config.score == "output_error":
        return plan_of(config, opened)
    if config.tables:
        return table_plan(config, opened)
    above = [bits for bits in config.widths if bits >= config.reference]
    if above:
        raise BadInputError(f"reduced must hold widths below the reference {config.reference}: got {above[0]}")
    space = BitmapSpace.of(opened.model, weight=[*config.widths, config.reference], group=config.unit)
    objective = Objective.parse(config.metric or opened.task.primary_metric)
    objective.check(opened.task.metrics)
    if objective.on_purpose or objective.is_cost:
        raise BadInputError(f"metric must be one of {', '.join(opened.task.metrics)}, by its name: got {objective}")
    metric, options = objective.name, {"reference": config.reference}
    Study(space, [metric], "one_at_a_time", max_evaluations=None, options=options)
    return opened, space, metric, options


def sensitivity(config: SensitivityConfig, checked: Plan, directory: RunDirectory, run: Run) -> Result:
    """Rank the units by what reducing each alone costs (S1's one-at-a-time analysis), by output errors (S2), or by
    the scores of a table.
    """
    opened = checked.checkpoint if isinstance(checked, ErrorPlan | TablePlan) else checked[0]
    if not config.workers.in_process:
        opened.drop_model()
    if isinstance(checked, ErrorPlan):
        return output_errors(config, checked, directory, run)
    if isinstance(checked, TablePlan):
        return table_scores(config, checked, directory, run)
    _, space, metric, options = checked
    total = 1 + len(space.units) * len(config.reduced)
    pool = EvaluationPool(opened, space.sites, config.limit, config.workers)
    with closing(pool), progress_bar("sensitivity", total) as progress:

        def show(score: Score) -> None:
            metrics = {**score.evaluation.metrics, **score.cost.as_metrics()}
            name, span = _reduced(score.bitmap, config.reference), score.evaluation.span
            record_bitmap(run, name, score.bitmap, metrics, "sensitivity", sites=space.sites, span=span)
            progress.advance(f"{metric} {score.evaluation[metric]:.2f}")

        found = run_search(
            space,
            pool,
            [metric],
            "one_at_a_time",
            max_evaluations=None,
            storage=directory.path / EVALUATION_RECORD,
            on_score=show,
            options=options,
        )
    reference = found.points[0].metrics[metric]
    drops = [row[f"{metric}{DROP}"] for row in found.trace]
    run.log_metrics({f"{metric}.reference": reference.estimate, f"{metric}.largest_drop": max(drops)})
    return {
        "metric": metric,
        "reference": {"bits": config.reference, metric: reference.to_json()},
        "ranking": [dict(row) for row in found.trace],
    }


def _reduced(bitmap: Bitmap, reference: int) -> str:
    """Name a run by what distinguishes its bitmap from the uniform one at ``reference`` bits."""
    reduced = {site: bits.weight for site, bits in bitmap.items() if bits.weight != reference}
    if not reduced:
        return f"all at {reference}"
    sites = list(reduced)
    return f"{sites[0]}{' ...' if len(sites) > 1 else ''} at {reduced[sites[0]]}"


def _tables(config: SensitivityConfig, trained: TrainConfig) -> Estimate:
    """Count forward passes over the examples: some per score and choice, or per site where sites are run alone."""
    choices, sites = sum(map(len, config.choices.values())), len(sites_of(trained))
    passes = {"kl": sites * choices / 2, "hessian": 600}
    tokens = sequence_tokens(trained.task)
    examples = config.limit or max(1, TOKENS // tokens)
    each = sum(passes.get(score, 3 + choices) for score in config.tables)
    return forward(examples * round(each), tokens, parameters_of(trained))


class SensitivityJob(Job[SensitivityConfig, Plan]):
    """``qalof sensitivity``."""

    name = "sensitivity"
    config = SensitivityConfig
    settings = (*CHECKPOINT_SETTINGS, ("Unit", "unit"), ("Reference bits", "reference"), ("Reduced to", "reduced"))
    record = (EVALUATION_RECORD, "evaluation")
    is_about = (
        "Each unit alone is reduced from the reference while all others stay; what the metric loses is how "
        "sensitive that unit is."
    )

    def check(self, config: SensitivityConfig) -> Plan:
        """Return the checkpoint, the units and the widths."""
        return check_sensitivity(config)

    def work(self, config: SensitivityConfig, checked: Plan, directory: RunDirectory, run: Run) -> Result:
        """Rank the units."""
        return sensitivity(config, checked, directory, run)

    def method(self, config: SensitivityConfig) -> str:
        """Name the scores."""
        return ", ".join(config.tables) or str(config.score)

    def estimate(self, step: PlannedStep, trained: TrainConfig | None) -> Estimate | None:
        """Count one evaluation per unit and width, and one of the reference."""
        if trained is None:
            return None
        config: Any = step.config
        if config.score == "output_error":
            # one pass that captures the inputs, and the products of every width in addition
            sequences = (config.limit or EXAMPLES) * (1 + len(config.reduced))
            return forward(sequences, sequence_tokens(trained.task), parameters_of(trained))
        if config.tables:
            return _tables(config, trained)
        units = blocks_of(trained) if config.unit == "block" else len(sites_of(trained))
        return scored_at(trained, trained.task, config.limit, 1 + len(config.reduced) * units)

    def findings(self, folder: Path, result: Mapping[str, Any]) -> Ranked | OutputErrors | TableScores:
        """Return the ranking."""
        return ranked(folder, result)

    def pictures(self, folder: Path, result: Mapping[str, Any]) -> list[Plot]:
        """Draw what each site loses at each width."""
        from orchestrate.jobs.sensitivity.view import heat_plots

        return heat_plots(ranked(folder, result), "picture")

    def section(self, record: Record, step: Step, prefix: str) -> list[Block]:
        """Show the ranking as a drawing and as a table."""
        from orchestrate.jobs.sensitivity.view import ranking_blocks

        return ranking_blocks(step, prefix)

    def statements(self, record: Record, step: Step) -> list[Statement]:
        """State the largest losses, and how many units show none."""
        from orchestrate.jobs.sensitivity.sentences import ranking_statements

        return ranking_statements(record, step)

    def terminal(self, result: Mapping[str, Any], folder: Path) -> list[RenderableType]:
        """Show the ranking, with the least sensitive unit first."""
        from orchestrate.jobs.sensitivity.table_view import table_sheets
        from orchestrate.jobs.sensitivity.terminal import errors_table, ranking_table

        if isinstance(result.get("score"), list):
            return [*table_sheets(result, folder)]
        return [errors_table(result) if result.get("score") == "output_error" else ranking_table(result, folder)]

    def offers(self, step: PlannedStep, of: str, metrics: Callable[[], Sequence[str]]) -> Offer:
        """Offer drops of units, or their output errors."""
        from orchestrate.jobs.sensitivity.cells import offered

        return offered(step, of, metrics)

    def cell(self, place: Place, step: PlannedStep) -> Cell:
        """Read a drop or an output error."""
        from orchestrate.jobs.sensitivity.cells import drop_cell

        return drop_cell(place, step)
