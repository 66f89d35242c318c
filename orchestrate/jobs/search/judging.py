"""The finalists of a search, judged on examples that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from orchestrate.cluster.evaluation_pool import EvaluationPool
from orchestrate.jobs.base import Result
from orchestrate.jobs.search.config import SearchConfig
from orchestrate.runs.directory import RunDirectory
from orchestrate.runs.layout import JUDGE_RECORD
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.errors import BadInputError
from qalof.files import json_ready
from qalof.tasks.base import example_count
from qalof.tasks.factory import describe_task
from search import BitmapSpace, SearchResult
from search.judge import judge, judgeable

NONE = "No mixed bitmap was scored within the budget of a uniform one, so there is nothing to judge."


def check_judge(config: SearchConfig, opened: OpenCheckpoint) -> OpenCheckpoint:
    """Return the checkpoint with the task of the examples that judge, whose data is read.

    Raises:
        BadInputError: the search or the training sees these examples too, or they cannot be read.
    """
    assert config.judge is not None
    split = config.judge.split
    if split is None:
        if config.limit is None:
            raise BadInputError(
                "judge must have examples that the search does not score: limit is null, so it scores all of them; "
                "set limit, or judge.split to another split"
            )
        if (count := example_count(opened.task)) <= config.limit:
            raise BadInputError(
                f"judge must have examples that the search does not score: the split has {count}, and limit "
                f"{config.limit} takes them all; lower limit, or set judge.split to another split"
            )
        return opened
    described = describe_task(opened.task)
    settings = described["settings"]
    name = "validation_split" if "validation_split" in settings else "split"
    seen = {_base(settings[one]) for one in ("train_split", name) if one in settings}
    if _base(split) in seen:
        raise BadInputError(
            f"judge.split must be another split than {' and '.join(sorted(seen))}, which the search sees: got {split}; "
            "null takes the examples after the searched ones"
        )
    other = opened.with_task({"name": described["name"], "settings": {**settings, name: split}})
    other.task.fingerprint()
    return other


def judged(
    config: SearchConfig, opened: OpenCheckpoint, space: BitmapSpace, found: SearchResult, directory: RunDirectory
) -> Result:
    """Score the finalists, and return the answer as JSON."""
    assert config.judge is not None
    budgets = judgeable(found, _budgets(config.strategy_options))
    after = 0 if config.judge.split is not None else config.limit or 0
    where = {"split": config.judge.split, "skip": after}
    if not budgets:
        return {"answer": NONE, "metric": None, "examples": 0, "rows": [], **where}
    pool = EvaluationPool(
        opened, space.sites, config.judge.limit, config.workers, skip=after, robustness=config.robustness.settings
    )
    with closing(pool):
        judgement = judge(found, pool, budgets, directory.path / JUDGE_RECORD)
    rows: Any = json_ready(judgement.rows())
    shown = {"metric": judgement.metric.name, "examples": judgement.examples, "rows": rows}
    return {"answer": judgement.text, **shown, **where}


def _budgets(options: Mapping[str, Any]) -> list[Mapping[str, float]] | None:
    given = options.get("budgets")
    return [{options.get("budget_of", "average_bits"): float(value)} for value in given] if given else None


def _base(split: str) -> str:
    """Return the name of a split without its slice."""
    return split.partition("[")[0].strip()
