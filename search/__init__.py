"""The search for bitmaps: spaces with budgets, strategies, studies and fronts.

It works in one process with any evaluator; :func:`run` does the whole search in one call::

    space = search.BitmapSpace.of(model, weight=(4, 8))
    result = search.run(space, search.LocalEvaluator(model, task), limits={"average_bits": 5.0}, storage="search.jsonl")
    result.best(average_bits=4.0).bitmap

Only what runs a model in this process imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search.allocation.damage import allocate
from search.evaluator import Evaluator, LocalEvaluator
from search.front import non_dominated
from search.judge import Judgement, judge
from search.loop import run
from search.objective import Objective, Score, parse_objectives
from search.point import Point
from search.record import EvaluationRecord
from search.resolve import Resolution, resolve
from search.result import SearchResult
from search.scores.table import ScoreTable
from search.space import BitmapSpace, Unit
from search.strategies import STRATEGIES
from search.study import Study

if TYPE_CHECKING:
    from search.scores.compute import compute as compute_scores

__all__ = [
    "STRATEGIES",
    "BitmapSpace",
    "EvaluationRecord",
    "Evaluator",
    "Judgement",
    "LocalEvaluator",
    "Objective",
    "Point",
    "Resolution",
    "Score",
    "ScoreTable",
    "SearchResult",
    "Study",
    "Unit",
    "allocate",
    "compute_scores",
    "judge",
    "non_dominated",
    "parse_objectives",
    "resolve",
    "run",
]


def __getattr__(name: str) -> Any:
    if name == "compute_scores":
        from search.scores.compute import compute

        return compute
    raise AttributeError(f"module 'search' has no attribute {name!r}")
