"""Tables of what a training step of a real model, the start of a command, and an attack on words cost."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from md_tables import rows

STEPS = {
    "whole_head": ("head at every token, one batch", "one_batch"),
    "labels": ("head at tokens with labels, one batch", "one_batch"),
    "micro4": ("the same, micro-batches of four sequences, by length", "micro4"),
    "micro2": ("the same, micro-batches of two, by length", "micro2"),
    "int8": ("micro-batches of four, `held: int8`", "micro4"),
    "bf16": ("micro-batches of four, `precision: bf16`", "micro4"),
}
"""Variant -> (its words, how its tokens are batched)."""

Found = Mapping[str, Any]


def step(found: Found) -> str:
    """Seconds of a step by variant, and over the first one."""
    tokens = found["tokens_by_round"]
    body = [
        [
            words,
            _spread(found["seconds"][name]),
            f"{found['cpu_over_whole_head'][name]['median']:.2f}",
            f"{median(row[batching] for row in tokens):,.0f}",
        ]
        for name, (words, batching) in STEPS.items()
        if name in found["seconds"]
    ]
    header = [f"step of {found['sequences']} sequences", "seconds (least to most)", "processor time over the first"]
    return f"{_where(found['environment'])}\n\n{rows([*header, 'tokens computed'], body)}"


def products(found: Found) -> str:
    """GFLOP/s by kind of product, from the slowest to the fastest of the model's shapes."""
    body = [
        [kind.replace("_", ", "), f"{min(speeds.values()):,.0f} to {max(speeds.values()):,.0f}"]
        for kind, speeds in found["products_gflop_per_second"].items()
    ]
    return rows(["products of the model's shapes", "GFLOP/s"], body)


def start(found: Found) -> str:
    """Seconds to a command's work, cold and warm, and the largest parts."""
    body = []
    for command in ("validate", "train"):
        for cache, row in found[command].items():
            parts = sorted(row["spans"].items(), key=lambda part: -part[1])[:3]
            shown = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts)
            body.append([f"`{command}`, {cache}", str(row["runs"]), _spread(row), f"{row['cpu_seconds']:.1f}", shown])
    header = ["command and cache", "runs", "seconds (least to most)", "of the processor", "most of it"]
    return f"{_where(found)}\n\n{rows(header, body)}"


def attack_speed(found: Found) -> str:
    """Texts per second by the way in which they are attacked, and what a second actor brings."""
    body = [
        [
            row["victim"], row["way"], f"{row['texts_per_second']:.2f}", _quartiles(row["times_as_fast"]),
            f"{row['successes']} of {row['texts']}", f"{row['equal_results']} of {row['texts']}",
        ]
        for row in found["rows"]
    ]  # fmt: skip
    header = ["victim", "way", "texts per second", "times as fast", "successes", "equal to one text at a time"]
    actors = found["actors"]
    second = (
        f"`qalof attack` with two workers of one thread is {_quartiles(actors['times_as_fast'])} times as fast as with "
        f"one ({actors['victim']}, {actors['texts']} texts, by the clock)."
    )
    return f"{_where(found)}\n\n{rows(header, body)}\n\n{second}"


def _quartiles(row: Found) -> str:
    return f"{row['median']:.2f} [{row['q1']:.2f}, {row['q3']:.2f}]"


def _spread(row: Found) -> str:
    if row["min"] == row["max"]:
        return f"{row['median']:.1f}"
    return f"{row['median']:.1f} ({row['min']:.1f} to {row['max']:.1f})"


def _where(found: Found) -> str:
    """The machine that a result comes from."""
    return (
        f"{found['cpu']}, {found['threads']} threads, torch {found['torch']}, commit `{found['commit'][:7]}`, load "
        f"{found['load_average'][0]:.1f}."
    )
