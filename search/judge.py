"""The finalists of a search, scored on data that no search has seen, beside the uniform bitmaps of the same budget.

The best of many measured bitmaps is partly the luckiest one, so the numbers by which a search chose are too good.
Here the best mixed bitmap and the best uniform bitmap of each budget, as the search chose them, are evaluated again by
an evaluator of other examples, and their difference has a paired bootstrap interval over these.  "No mixed bitmap is
shown to beat uniform" is a possible answer, and :attr:`Judgement.text` begins with the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qalof.best_within import best_within
from qalof.bitmap import Bitmap
from qalof.bitmap_names import short_name
from qalof.errors import BadInputError
from qalof.evaluation.result import Evaluation
from qalof.metrics import Metric
from qalof.statistics import Interval
from search.evaluator import Evaluator, measuring, requests_of
from search.failure import checked
from search.objective import Score
from search.point import Point
from search.record import record_at
from search.result import SearchResult
from search.strategies.sensitivity import drop_interval


@dataclass(frozen=True)
class Finalists:
    """The two bitmaps of one budget on data of their own.

    ``mixed`` and ``uniform``: their points there; ``gain``: by how much mixed is better in the metric, positive where
    it is, with its paired 95 % interval.
    """

    budget: Mapping[str, float]
    mixed: Point
    uniform: Point
    gain: Interval

    @property
    def is_shown(self) -> bool:
        """Whether the interval lies above zero."""
        return self.gain.low > 0


@dataclass(frozen=True)
class Judgement:
    """All budgets' finalists, in the order of the budgets, and the metric that they were compared by."""

    metric: Metric
    finalists: tuple[Finalists, ...]
    examples: int

    @property
    def text(self) -> str:
        """The answer, in one or two sentences."""
        shown = [one for one in self.finalists if one.is_shown]
        said = f"{len(self.finalists)} {'comparison' if len(self.finalists) == 1 else 'comparisons'}"
        of = f"on {self.examples} examples that the search has not seen, {said}, intervals of 95 % each"
        if not shown:
            return f"No mixed bitmap is shown to beat the uniform one of its budget in {self.metric.label} ({of})."
        budgets = "; ".join(", ".join(f"{name} {limit:.6g}" for name, limit in one.budget.items()) for one in shown)
        return f"A mixed bitmap beats the uniform one in {self.metric.label} at {budgets} ({of})."

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat row per budget, for a table."""
        return [
            {
                **one.budget,
                "mixed": short_name(one.mixed.bitmap),
                **one.mixed.metrics[self.metric.name].to_columns(self.metric.name),
                "uniform": short_name(one.uniform.bitmap),
                **one.uniform.metrics[self.metric.name].to_columns(f"uniform_{self.metric.name}"),
                **one.gain.to_columns("gain"),
                "is_shown": one.is_shown,
            }
            for one in self.finalists
        ]


def judge(
    result: SearchResult,
    evaluator: Evaluator,
    budgets: Sequence[Mapping[str, float]],
    storage: str | Path | None = None,
) -> Judgement:
    """Score the finalists of each budget on the examples of another evaluator.

    Args:
        result: a search whose evaluator had other examples.
        evaluator: an evaluator of the same model, on examples that the search has not seen.
        budgets: cost name -> greatest allowed value, such as ``{"average_bits": 4.5}``.
        storage: the file of a record, from which an interrupted judgement goes on.

    Raises:
        BadInputError: No budget is given, all objectives are costs, or within a budget there is no mixed or no uniform
            bitmap with a finite score.
    """
    if not budgets:
        raise BadInputError("a judgement needs at least one budget, such as {'average_bits': 4.5}: got none")
    measured = next((objective for objective in result.objectives if not objective.is_cost), None)
    if measured is None:
        raise BadInputError("a judgement needs an objective that is measured: all of this search's are costs")
    pairs = [(_best(result, budget, uniform=False), _best(result, budget, uniform=True)) for budget in budgets]
    costs = {point.bitmap: point.cost for pair in pairs for point in pair}
    evaluations = _evaluated(measuring(evaluator, result.objectives), list(costs), result, storage)
    scores = {
        bitmap: Score.of(bitmap, checked(evaluation, result.objectives), costs[bitmap], result.objectives)
        for bitmap, evaluation in evaluations.items()
    }
    finalists = []
    for budget, (mixed, uniform) in zip(budgets, pairs, strict=True):
        first, second = scores[mixed.bitmap], scores[uniform.bitmap]
        # what uniform loses against mixed is what mixed gains
        gain = drop_interval(measured.metric, first, second)
        there = Point.of(first, evaluator.sites), Point.of(second, evaluator.sites)
        finalists.append(Finalists(dict(budget), there[0], there[1], gain))
    return Judgement(measured.metric, tuple(finalists), max(one.examples for one in evaluations.values()))


def judgeable(result: SearchResult, budgets: Sequence[Mapping[str, float]] | None = None) -> list[Mapping[str, float]]:
    """Return the budgets within which a search has scored a mixed and a uniform bitmap, each once.

    Args:
        result: a search.
        budgets: what is looked at; None takes the cost of each uniform bitmap that was scored, by the search's first
            objective that is a cost, otherwise by average bits.
    """
    if budgets is None:
        price = next((objective.name for objective in result.objectives if objective.is_cost), "average_bits")
        uniform = [point for point in result.points if point.bitmap.is_uniform and not point.failure]
        budgets = [{price: value} for value in sorted({point.value(price) for point in uniform})]
    unique = list({tuple(sorted(budget.items())): budget for budget in budgets}.values())
    return [b for b in unique if all(_finalist(result, b, 0, uniform=uniform) for uniform in (False, True))]


def _evaluated(
    evaluator: Evaluator, bitmaps: Sequence[Bitmap], result: SearchResult, storage: str | Path | None
) -> dict[Bitmap, Evaluation]:
    with record_at(storage) as record:
        known: dict[Bitmap, Evaluation] = {}
        if record is not None:
            fingerprint, names = evaluator.fingerprint(), [site.name for site in evaluator.sites]
            known = record.load(fingerprint, evaluator.limit, names, requests_of(result.objectives))
        waiting, size = [bitmap for bitmap in bitmaps if bitmap not in known], max(1, evaluator.at_once)
        for start in range(0, len(waiting), size):
            batch = waiting[start : start + size]
            for bitmap, evaluation in zip(batch, evaluator.evaluate(batch), strict=True):
                known[bitmap] = evaluation
                if record is not None:
                    record.add(fingerprint, evaluator.limit, bitmap, evaluation)
    return {bitmap: known[bitmap] for bitmap in bitmaps}


def _finalist(result: SearchResult, budget: Mapping[str, float], position: int, *, uniform: bool) -> Point | None:
    """Return the best uniform or mixed point within a budget, by the objective at ``position``."""
    return best_within(
        (point for point in result.points if point.bitmap.is_uniform is uniform),
        budget,
        values=lambda point: point.ranked,
        cost=Point.value,
        sign=result.objectives[position].sign,
        position=position,
    )


def _best(result: SearchResult, budget: Mapping[str, float], *, uniform: bool) -> Point:
    position = next(i for i, objective in enumerate(result.objectives) if not objective.is_cost)
    found = _finalist(result, budget, position, uniform=uniform)
    if found is None:
        kind = "uniform" if uniform else "mixed"
        raise BadInputError(
            f"a judgement needs a {kind} bitmap within each budget: the search has scored none within {dict(budget)}; "
            "search with this budget, or raise it"
        )
    return found
