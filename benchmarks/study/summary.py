"""The results as numbers with intervals: what README, docs and the report are made of."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure import environment

from qalof.evaluation.result import Evaluation
from qalof.files import read_json
from qalof.statistics import Interval, paired_difference
from study.claims import heads, sensitivities
from study.found import searched
from study.methods import METHODS, SEEDS
from study.place import Place
from study.ranking import fisher_of, measured
from study.runner import finished, keys_of
from study.schemes import schemes
from study.scoring import scores_of

MACHINES = "machines.json"
JUDGED = ("exact_match", "f1", "loss")
SAME_WIDTH = (
    ("spnet", "static_8", 8), ("spnet", "static_4", 4),
    ("cascade_two", "spnet", 8), ("cascade_two", "spnet", 4),
    ("cascade", "spnet", 8), ("cascade", "spnet", 4), ("cascade", "cascade_two", 8), ("cascade", "cascade_two", 4),
    ("cascade", "spnet_five", 8), ("cascade", "spnet_five", 6), ("cascade", "spnet_five", 5),
    ("cascade", "spnet_five", 4),
    ("spnet_five", "static_8", 8), ("spnet_five", "static_6", 6), ("spnet_five", "static_5", 5),
    ("spnet_five", "static_4", 4),
    ("cpt", "static_8", 8), ("cpt", "static_6", 6), ("cpt", "static_5", 5), ("cpt", "static_4", 4),
    ("layerwise", "spnet", 8), ("layerwise", "spnet", 4), ("curriculum", "spnet_five", 4),
    ("curriculum", "spnet", 8), ("curriculum", "spnet", 4),
    ("spnet_again", "spnet", 8), ("spnet_again", "spnet", 4), ("cpt_again", "cpt", 8), ("cpt_again", "cpt", 4),
    ("static_4_again", "static_4", 4), ("spnet_again", "static_4_again", 4),
    ("cpt", "full_precision", 32), ("static_8", "full_precision", 32), ("static_4", "full_precision", 32),
    ("spnet", "full_precision", 32), ("full_precision", "static_8", 8), ("cpt", "spnet", 8), ("cpt", "spnet", 4),
    ("cpt", "full_precision", 6), ("cpt", "full_precision", 5),
    ("full_precision", "static_4", 4), ("data_free_4", "untrained", 4),
)  # fmt: skip
"""(method, compared with, bits): paired over questions."""
WITHIN = (
    ("full_precision", 8, "full_precision", 32), ("spnet", 8, "spnet", 32), ("spnet", 4, "spnet", 8),
    ("spnet", "striped", "spnet", 8), ("spnet", "striped", "spnet", 4), ("spnet", 8, "full_precision", 8),
    ("static_4", 4, "static_8", 8), ("cpt", 4, "cpt", 8),
    ("spnet", "MLP at 4", "spnet", 4), ("spnet", "attention at 4", "spnet", 4),
    ("cpt", "MLP at 4", "cpt", 4), ("cpt", "attention at 4", "cpt", 4),
    ("spnet", "first third at 4", "spnet", "last third at 4"), ("cpt", "first third at 4", "cpt", "last third at 4"),
    ("spnet", "attention at 4", "spnet", "MLP at 4"), ("cpt", "attention at 4", "cpt", "MLP at 4"),
)  # fmt: skip
"""(method, bits, compared with, its bits): what rounding costs, within a model and between."""
MIXED_OF = (
    ("layerwise", "spnet"), ("layerwise", "cascade_two"), ("curriculum", "spnet"), ("cpt", "spnet"),
    ("cascade_two", "spnet"), ("cascade", "spnet"), ("cascade", "cascade_two"),
    ("spnet_again", "spnet"), ("cpt_again", "cpt"),
)  # fmt: skip
OVER_SEEDS = (("cpt", "spnet"), ("spnet", "static_4"), ("cpt", "static_4"))
"""Pairs of methods of which each has two seeds."""


def summarize(place: Place, scale: str) -> dict[str, Any]:
    """Every table; what is not there was not run."""
    records = finished(place)
    done = {name: record["result"] for name, record in records.items()}
    seconds = {name: record["seconds"] for name, record in records.items()}
    place = replace(place, keys=keys_of(place))
    rows = {name: scores_of(place, f"score_{name}") for name in ("untrained", *METHODS)}
    scored = {name: each for name, each in rows.items() if each}
    return {
        "benchmark": "real_study", "scale": scale, "settings": vars(place.scale),
        "model": Path(place.source).name,
        "stored_as": "Q4_1", "questions": place.scale.dev_questions, "machines": _machines(place),
        "trainings": {name: _training(done[f"train_{name}"]) for name in METHODS if f"train_{name}" in done},
        "scores": {name: {spec: _row(row) for spec, row in rows.items()} for name, rows in scored.items()},
        "comparisons": _comparisons(scored), "mixed": _mixed(scored), "seeds": over_seeds(scored),
        "search": searched(place, done),
        **schemes(place),
        "data_free_text": _texts(scored.get("data_free_4", {})),
        "sensitivity": sensitivities(**measured(place, "sensitivity")),
        "sensitivity_trained": sensitivities(**fisher_of(place, "search_after")),
        "head": heads(scores_of(place, "head")),
        "cost": done.get("cost"), "speed": done.get("speed"), "seconds": seconds, **environment(),
    }  # fmt: skip


def _machines(place: Place) -> list[dict[str, str]]:
    """The machines and commits that the results come from, which need not be those of the summary."""
    file = place.state / MACHINES
    found: list[dict[str, str]] = read_json(file, "the machines of a study") if file.exists() else []
    return found


def _training(result: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("steps", "seed", "adapters", "last_losses", "curve", "seconds", "examples")
    return {name: result[name] for name in kept}


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    evaluation = _of(row, "squad")
    return {
        "bitmap": row["bitmap"], "questions": evaluation.examples,
        "average_bits": round(row["average_bits"], 3), "weight_bytes": row["weight_bytes"],
        **{metric: _three(evaluation.interval(metric)) for metric in JUDGED},
    }  # fmt: skip


def _texts(rows: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _three(_of(row, "text").interval("perplexity")) for name, row in rows.items()}


def _comparisons(scored: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, at, other, over_at in (*((a, bits, b, bits) for a, b, bits in SAME_WIDTH), *WITHIN):
        if str(at) in scored.get(name, {}) and str(over_at) in scored.get(other, {}):
            row = {"of": name, "at": at, "over": other, "over_at": over_at}
            ours, theirs = (_of(scored[which][str(bits)], "squad") for which, bits in ((name, at), (other, over_at)))
            found.append(row | _differences(ours, theirs))
    return found


def _mixed(scored: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Means over all mixed bitmaps of two methods, question by question."""
    found = []
    for name, other in MIXED_OF:
        if name not in scored or other not in scored:
            continue
        specs = [spec for spec in scored[name] if not spec.isdigit() and spec in scored[other]]
        if not specs:
            continue
        row: dict[str, Any] = {"of": name, "over": other, "bitmaps": specs}
        for metric in JUDGED:
            ours, theirs = (_of_specs(scored[each], specs, metric) for each in (name, other))
            row[metric] = _three(paired_difference(ours, theirs))
        found.append(row)
    return found


def over_seeds(scored: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Differences of two methods for each seed, and for the mean over both, at each bitmap and over all mixed ones.

    An interval is over questions, so it does not hold what a third seed would change.

    Args:
        scored: method -> name of a bitmap -> its row.
    """
    found = []
    for name, other in OVER_SEEDS:
        pairs = [(name, other), (SEEDS[name], SEEDS[other])]
        if not all(each in scored for pair in pairs for each in pair):
            continue
        shared = [spec for spec in scored[name] if all(spec in scored[each] for pair in pairs for each in pair)]
        uniform, mixed = ([spec for spec in shared if spec.isdigit() is kind] for kind in (True, False))
        for specs in (*([spec] for spec in uniform), *([mixed] if mixed else [])):
            row: dict[str, Any] = {"of": name, "over": other, "bitmaps": specs}
            for metric in JUDGED:
                ours, theirs = ([_of_specs(scored[pair[side]], specs, metric) for pair in pairs] for side in (0, 1))
                each = [_three(paired_difference(a, b)) for a, b in zip(ours, theirs, strict=True)]
                row[metric] = {"seeds": each, "mean": _three(paired_difference(_means(ours), _means(theirs)))}
            found.append(row)
    return found


def _of_specs(scored: Mapping[str, Any], specs: list[str], metric: str) -> list[float]:
    """One number per question: its mean over bitmaps."""
    return _means([_of(scored[spec], "squad").per_example[metric] for spec in specs])


def _means(rows: list[Any]) -> list[float]:
    return [statistics.fmean(values) for values in zip(*rows, strict=True)]


def _differences(ours: Evaluation, theirs: Evaluation) -> dict[str, Any]:
    """Over the questions that both have, which are the first ones of the longer list."""
    both = min(ours.examples, theirs.examples)
    return {"questions": both} | {
        metric: _three(paired_difference(ours.per_example[metric][:both], theirs.per_example[metric][:both]))
        for metric in JUDGED
    }


def _of(row: Mapping[str, Any], task: str) -> Evaluation:
    return Evaluation.from_json(row["evaluations"][task])


def _three(interval: Interval) -> list[float]:
    return [round(value, 4) for value in (interval.estimate, interval.low, interval.high)]
