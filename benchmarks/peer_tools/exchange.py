"""What the processes of a comparison give one another: plain files, read and written by every environment.

A job says what is wanted, an answer has one recipe per budget and what it took.  This module needs the standard library
alone, since it runs in the environments of all tools.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

THREADS = 1
"""Every tool computes with so many threads."""
WINDOW = 256
"""Tokens of a window, to calibrate, choose and judge on."""
CHARACTERS = 8 * WINDOW
"""A text of so many characters has more tokens than a window."""


class Stopwatch:
    """CPU seconds (user and system, those of ended children included) and wall seconds since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = _cpu_seconds(), time.perf_counter()

    def read(self) -> dict[str, float]:
        return {
            "cpu_seconds": round(_cpu_seconds() - self._cpu, 2),
            "wall_seconds": round(time.perf_counter() - self._wall, 2),
        }


def read_job(path: str | Path) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return job


def write_answer(path: str | Path, answer: Mapping[str, Any]) -> None:
    """Write an answer, so that a file of this name is always a whole one."""
    target = Path(path)
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(answer, indent=1), encoding="utf-8")
    partial.replace(target)


def spread(text: str, count: int) -> list[str]:
    """Return texts that begin evenly over ``text``."""
    starts = [index * (len(text) - CHARACTERS) // count for index in range(count)]
    texts = [text[start : start + CHARACTERS] for start in starts]
    return [each[each.index(" ") :].strip() for each in texts]


def checked(recipe: Mapping[str, int], sites: Sequence[str], menu: Sequence[int]) -> dict[str, int]:
    """Return a recipe in the order of the sites.

    Raises:
        ValueError: A site has no bits, a name is no site, or a width is not on the menu.
    """
    missing = [site for site in sites if site not in recipe]
    if missing:
        raise ValueError(f"a recipe gives bits to every site: {len(missing)} have none, such as {missing[0]}")
    others = sorted(set(recipe) - set(sites))
    if others:
        raise ValueError(f"a recipe gives bits to sites alone: {others[0]} is none")
    for site in sites:
        if recipe[site] not in menu:
            raise ValueError(f"a recipe takes its widths from {list(menu)}: {site} has {recipe[site]}")
    return {site: int(recipe[site]) for site in sites}


def total(spent: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Add up what several stopwatches read."""
    return {name: round(sum(one[name] for one in spent), 2) for name in ("cpu_seconds", "wall_seconds")}


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
