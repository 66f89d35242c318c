"""Interleaved timing: every variant once a round, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers


def interleaved(variants: Mapping[str, Callable[[], Any]], rounds: int, calls: int = 1) -> dict[str, list[float]]:
    """Seconds a call of each variant, by round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        print(f"round {turn} of {rounds}", file=sys.stderr)
        for name, run in variants.items():
            start = time.perf_counter()
            for _ in range(calls):
                run()
            if turn:
                times[name].append((time.perf_counter() - start) / calls)
    return times


def summary(values: list[float], scale: float = 1.0) -> dict[str, float]:
    """Median, quartiles and extremes."""
    low, _, high = statistics.quantiles(values, n=4)
    named = {"median": statistics.median(values), "q1": low, "q3": high, "min": min(values), "max": max(values)}
    return {name: round(value * scale, 4) for name, value in named.items()}


def ratios(times: Mapping[str, list[float]], over: str, under: str) -> dict[str, float]:
    """Of two variants, round by round."""
    return summary([a / b for a, b in zip(times[over], times[under], strict=True)])


def environment() -> dict[str, Any]:
    """What a number depends on."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "commit": commit,
        "cpu": processor(),
        "logical_cpus": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The name of the processor."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.processor()


def report(result: Mapping[str, Any]) -> None:
    print(json.dumps(result, indent=2))
