"""``sensitivity`` with the scores of :mod:`search.scores`: a table of every site at every choice, per score.

An item of work is a score, so several scores are computed side by side, each in one worker.  A table is written into
the run directory part by part; a killed run goes on from its parts where the worker sees the directory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from orchestrate.cluster.evaluation_pool import pool_of, threads_of
from orchestrate.jobs.sensitivity.config import SensitivityConfig
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import SCORE_TABLE
from orchestrate.runs.mlflow_tracker import Run
from orchestrate.runs.progress import progress_bar
from qalof.checkpoint.opening import OpenCheckpoint
from search.scores.compare import rank_correlation
from search.scores.compute import check_choices, compute
from search.scores.data import scoring_data
from search.scores.table import ScoreTable

Item = tuple[str, str]
"""A score, and the path of its table."""


@dataclass(frozen=True)
class TablePlan:
    """What tables are computed of."""

    checkpoint: OpenCheckpoint
    """The checkpoint whose sites are scored."""
    choices: Mapping[str, Sequence[str | int]]
    """The choices by role."""
    examples: int | None
    """How many training examples are seen; None takes as many as have 2,048 tokens."""
    seed: int
    """The seed of examples and labels."""


class TableActor:
    """Holds a checkpoint's model, and computes one table after another."""

    def __init__(self, plan: TablePlan, threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        self._plan, self._model = plan, plan.checkpoint.model
        self._model.to(device)

    def do(self, item: Item) -> dict[str, Any]:
        """Compute one table."""
        score, path = item
        plan = self._plan
        where = Path(path) if Path(path).parent.is_dir() else None  # another node may not see the run directory
        table = compute(
            self._model,
            plan.checkpoint.task,
            score,
            plan.choices,
            examples=plan.examples,
            seed=plan.seed,
            path=where,
        )
        return table.to_json()


def table_plan(config: SensitivityConfig, checkpoint: OpenCheckpoint) -> TablePlan:
    """Find what tables are computed of.

    Raises:
        BadInputError: A choice does not exist, the model has nothing to round in some role, or the task has no
            likelihood.
    """
    model = checkpoint.model
    for score in config.tables:
        check_choices(model, score, config.choices)
    scoring_data(checkpoint.task, config.tables[0], examples=config.limit, seed=config.seed)
    return TablePlan(checkpoint, config.choices, config.limit, config.seed)


def table_scores(config: SensitivityConfig, plan: TablePlan, directory: RunDirectory, run: Run) -> dict[str, Any]:
    """Compute and compare the tables; the result has the first one's rows, from the least to the largest damage."""
    workers, names = config.workers, config.tables
    arguments = (plan, threads_of(workers), workers.device)
    pool = pool_of(TableActor, workers, *arguments, size=min(workers.count, len(names)))
    paths = {name: directory.path / SCORE_TABLE.format(score=name) for name in names}
    items: list[Item] = [(name, str(path.absolute())) for name, path in paths.items()]
    with closing(pool), progress_bar("scores", len(items)) as progress:
        found = pool.map(items, lambda index, _: progress.advance(names[index]))
    tables = {name: ScoreTable.from_json(content) for name, content in zip(names, found, strict=True)}
    for name, table in tables.items():
        table.save(paths[name])
        run.artifact(paths[name])
        run.log_metrics({f"{name}.{role}.{choice}": sum(at) for role, choice, at in _columns(table)})
    return {
        "score": list(names),
        "unit": tables[names[0]].unit,
        "details": dict(tables[names[0]].details),
        "ranking": _ranking(tables[names[0]]),
        "correlations": _correlations(tables),
        "files": {name: str(path) for name, path in paths.items()},
    }


def _ranking(table: ScoreTable) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"unit": site, "role": role, "bits": choice, "damage": damage}
        for role, sites in table.values.items()
        for site, choices in sites.items()
        for choice, damage in choices.items()
    ]
    return sorted(rows, key=lambda row: float(row["damage"]))


def _columns(table: ScoreTable) -> list[tuple[str, str, list[float]]]:
    """Return the damages of all sites by role and choice."""
    return [
        (role, choice, [choices[choice] for choices in sites.values()])
        for role, sites in table.values.items()
        for choice in table.choices(role)
    ]


def _correlations(tables: Mapping[str, ScoreTable]) -> list[dict[str, Any]]:
    return [
        {"first": first, "second": second, "role": role, "bits": choice, "spearman": value}
        for first, second in combinations(tables, 2)
        for role, choice, value in rank_correlation(tables[first], tables[second])
    ]
