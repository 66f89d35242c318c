"""What the bitmaps are worth that were found before and after training.

All of them are compared in the same trained adapters, and those of one budget in adapters that were trained at that one
bitmap too.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from qalof.evaluation.result import Evaluation
from qalof.statistics import Interval, paired_difference
from qalof.tasks.parts import joined
from study.methods import SEARCHED
from study.place import Place
from study.ranking import BUDGETS, distinct, pieces
from study.scoring import scores_of

ALONE = ", trained alone"
PAIRS = (
    *((f"after, {budget} bits", f"before, {budget} bits") for budget in BUDGETS),
    ("after, knapsack of 5.0 bits", "before, 5.0 bits"), ("after, knapsack of 5.0 bits", "uniform 5"),
    ("after, 5.0 bits", "uniform 5"), ("before, 5.0 bits", "uniform 5"),
    ("after, 4.5 bits", "uniform 4"), ("before, 4.5 bits", "uniform 4"),
    ("after, 4.5 bits", "uniform 5"), ("before, 4.5 bits", "uniform 5"), ("after, 4.5 bits", "before, 5.0 bits"),
    *(("after, 4.5 bits", over) for over in ("uniform 6", "striped", "hybrid")),
    (f"before, 4.5 bits{ALONE}", "before, 4.5 bits"), (f"after, 4.5 bits{ALONE}", "after, 4.5 bits"),
    (f"before, 4.5 bits{ALONE}", "after, 4.5 bits"), (f"after, 4.5 bits{ALONE}", f"before, 4.5 bits{ALONE}"),
)  # fmt: skip
"""(bitmap, compared with)."""


METRICS = {"losses": ("loss",), "answers": ("f1", "exact_match")}
"""What the pieces of each part measure."""
ELSEWHERE = {f"uniform {bits}": str(bits) for bits in (4, 5, 6)} | {name: name for name in ("striped", "hybrid")}
"""Bitmaps that are among the scores of the trained model too, under these names, and maybe from another machine."""

Scored = Mapping[str, tuple[Evaluation, str | None]]
"""Metric -> its scores and the machine that they come from."""


def searched(place: Place, done: Mapping[str, Any]) -> dict[str, Any] | None:
    """Every bitmap's scores, and the paired differences, on the questions that both sides have."""
    rows = distinct(scores_of(place, "compare_searches"), itemgetter("bitmap"))
    before = scores_of(place, f"score_{SEARCHED}")
    if not rows or "search_after" not in done:
        return None
    alone = _alone(place)
    here = {name: _joined(place, row) for name, row in rows.items()}
    there = {name: _judged(before[other]) for name, other in ELSEWHERE.items() if other in before}
    scored: dict[str, Scored] = {name: there.get(name, {}) | here.get(name, {}) for name in {**here, **there}}
    scored |= {name: _judged(row) for name, row in alone.items()}
    found = {**rows, **alone}
    twice = [name for name in there if "loss" in here.get(name, {})]
    return {
        "in": SEARCHED, "bitmaps": {name: row["bitmap"] for name, row in found.items()},
        "average_bits": {**_bits(before, ELSEWHERE), **_bits(found, {name: name for name in found})},
        "rows": {name: _row(each) for name, each in scored.items()},
        "pairs": [
            {"of": a, "over": b} | _differences(scored[a], scored[b]) for a, b in PAIRS if a in scored and b in scored
        ],
        "machines_differ": {name: _differences(here[name], there[name])["loss"] for name in twice},
        "searches": {when: _effort(place, done[f"search_{when}"]) for when in ("before", "after")},
    }  # fmt: skip


def _alone(place: Place) -> dict[str, Any]:
    """The rows of the bitmaps in adapters that were trained at that one bitmap."""
    rows = {name: row for when in ("before", "after") for name, row in scores_of(place, f"score_found_{when}").items()}
    return {f"{name}{ALONE}": row for name, row in rows.items()}


def _effort(place: Place, result: Mapping[str, Any]) -> dict[str, int]:
    """How many bitmaps a search evaluated, and on how many questions; one that does not say took all of them."""
    return {"evaluations": result["evaluations"], "questions": result.get("questions", place.scale.choose_questions)}


def _bits(rows: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    return {name: round(rows[other]["average_bits"], 3) for name, other in names.items() if other in rows}


def _row(scored: Scored) -> dict[str, Any]:
    return {
        metric: {"interval": _three(each.interval(metric)), "questions": each.examples, "machine": machine}
        for metric, (each, machine) in scored.items()
    }


def _joined(place: Place, row: Mapping[str, Any]) -> Scored:
    """The scores of all questions up to the first piece that is missing."""
    found = {}
    for part, metrics in METRICS.items():
        names = pieces(place, part)
        had = next((at for at, name in enumerate(names) if name not in row["evaluations"]), len(names))
        if had:
            whole = joined([Evaluation.from_json(row["evaluations"][name]) for name in names[:had]])
            found |= dict.fromkeys(metrics, (whole, row["machines"][names[0]]))
    return found


def _judged(row: Mapping[str, Any]) -> Scored:
    whole = Evaluation.from_json(row["evaluations"]["squad"])
    return dict.fromkeys(("loss", "f1", "exact_match"), (whole, row["machines"]["squad"]))


def _differences(ours: Scored, theirs: Scored) -> dict[str, Any]:
    """Paired, over the questions that both have, which are the first ones of the longer list."""
    found = {}
    for metric in ours:
        if metric in theirs:
            sides = ours[metric], theirs[metric]
            both = min(each.examples for each, _ in sides)
            difference = paired_difference(*(_first(each, metric, both) for each, _ in sides))
            machines = [machine for _, machine in sides]
            found[metric] = {"interval": _three(difference), "questions": both, "machines": machines}
    return found


def _first(evaluation: Evaluation, metric: str, count: int) -> list[float]:
    """The scores of the first ``count`` examples, whose mean is the metric on these."""
    values = evaluation.per_example[metric][:count]
    if metric not in evaluation.weights:
        return values
    tokens = evaluation.weights[metric]
    scale = sum(tokens) / len(tokens) * count / sum(tokens[:count])
    return [value * scale for value in values]


def _three(interval: Interval) -> list[float]:
    return [round(value, 4) for value in (interval.estimate, interval.low, interval.high)]
