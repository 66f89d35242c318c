"""What ``attack`` found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrate.document.findings import recorded, well_formed
from orchestrate.document.record import Step
from orchestrate.runs.layout import ATTACK_RECORD, ATTACK_SKIPPED
from qalof.attacks.result import AttackResult
from qalof.attacks.robustness.report import RobustnessResult


@dataclass(frozen=True)
class Attacked:
    """What ``attack`` found: the figures, and the results at each bitmap, in order (empty if they were not kept)."""

    robustness: RobustnessResult
    results: Mapping[str, tuple[AttackResult, ...]]


def attacked_of(step: Step) -> Attacked | None:
    """Return the findings of a step, if they are those of an attack."""
    return step.findings if isinstance(step.findings, Attacked) else None


def attacked(folder: Path, result: Mapping[str, Any]) -> Attacked:
    """Read the result of an attack, and the record of its texts.

    Raises:
        BadInputError: a file is missing or damaged.
    """
    report = RobustnessResult.from_json(result["robustness"])
    path = folder / ATTACK_RECORD
    by_source: dict[str, list[AttackResult]] = {bitmap: [] for bitmap in report.bitmaps}
    with well_formed(path, "attack record"):
        left_out = skipped_in(folder)
        for line in recorded(path):
            attacked = AttackResult.from_json(line)
            if attacked.example_id in left_out:
                continue
            by_source.setdefault(attacked.bitmap, []).append(attacked)
    return Attacked(report, {bitmap: tuple(sorted(r, key=_example)) for bitmap, r in by_source.items()})


def skipped_in(folder: Path) -> set[int]:
    """Return the ids of texts that could not be attacked or judged, which no figure counts."""
    path = folder / ATTACK_SKIPPED
    return {int(line["example_id"]) for line in recorded(path)} if path.is_file() else set()


def _example(result: AttackResult) -> int:
    return result.example_id
