"""Perplexity and zero-shot accuracy of the pretrained model under each scheme, and which scheme is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qalof.evaluation.result import Evaluation
from qalof.statistics import Interval, paired_difference
from study.data import ZERO_SHOT
from study.place import Place
from study.scoring import AGAIN, BASELINES, baseline_stage, scores_of, zero_shot_stage

PAIRS = tuple(
    (scheme, over, spec)
    for scheme, over in (
        ("groups of 32", "per channel"), ("groups of 128", "per channel"), ("asymmetric", "per channel"),
        ("GPTQ", "per channel"), ("GPTQ, groups of 32", "groups of 32"), ("NF4", "groups of 32"),
        ("GGUF Q4_0 and Q8_0", "groups of 32"), ("GGUF Q4_0 and Q8_0", "NF4"), ("GPTQ", "groups of 128"),
    )
    for spec in ("w4a16kv16", "w4a8kv8", "w3a16kv16")
)  # fmt: skip
"""(scheme, compared with, bitmap)."""


def schemes(place: Place) -> dict[str, Any]:
    """Every scheme's rows, the paired differences of losses, and what two machines make of the same bitmap."""
    scored = {
        scheme: rows
        for scheme in BASELINES
        if (rows := scores_of(place, baseline_stage(scheme), zero_shot_stage(scheme)))
    }
    again = scores_of(place, "again")
    return {
        "baselines": {scheme: {spec: _baseline(row) for spec, row in rows.items()} for scheme, rows in scored.items()},
        "scheme_pairs": [
            {"of": scheme, "over": over, "at": spec} | _pair(scored[scheme][spec], scored[over][spec])
            for scheme, over, spec in PAIRS
            if spec in scored.get(scheme, {}) and spec in scored.get(over, {})
        ],
        "machines_differ": [
            {"scheme": scheme, "at": spec} | _pair(again[name], scored[scheme][spec])
            for scheme, spec in AGAIN
            if (name := f"{scheme}, {spec}") in again and spec in scored.get(scheme, {})
        ],
    }


def _baseline(row: Mapping[str, Any]) -> dict[str, Any]:
    accuracy = {name: _three(_of(row, name).interval("acc")) for name in ZERO_SHOT if name in row["evaluations"]}
    text = _of(row, "text")
    return {
        "weight_bytes": row["weight_bytes"], "perplexity": _three(text.interval("perplexity")),
        "accuracy": _three(text.interval("accuracy")), **accuracy,
        "machines": {task: machine for task, machine in row["machines"].items() if machine is not None},
    }  # fmt: skip


def _pair(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The difference of the losses, window by window, and of the perplexities."""
    texts = [_of(row, "text") for row in (ours, theirs)]
    return {
        "loss": _three(paired_difference(*(text.per_example["loss"] for text in texts))),
        "perplexities": [round(text["perplexity"], 4) for text in texts],
        "machines": [row["machines"]["text"] for row in (ours, theirs)],
    }


def _of(row: Mapping[str, Any], task: str) -> Evaluation:
    return Evaluation.from_json(row["evaluations"][task])


def _three(interval: Interval) -> list[float]:
    return [round(value, 4) for value in (interval.estimate, interval.low, interval.high)]
