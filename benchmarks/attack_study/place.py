"""What every part of the study is given, and how a state is laid out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from attack_study.scales import Scale
from qalof.attacks.substitutes.masked_words import LEFT_CONTEXT

TRAINED, PROGRESS, CHECKPOINT = "trained.json", "progress.json", "checkpoint"
"""What the folder of a victim holds."""


class Place(NamedTuple):
    """Where a run reads and writes, and with what."""

    data: Path
    model: Path
    encoder: str
    state: Path
    scale: Scale
    device: torch.device
    shard: int = 0
    of: int = 1
    masked_lm: str = LEFT_CONTEXT


def victim_folder(state: Path, data: str, victim: str) -> Path:
    """Return the folder of a victim, whose name stands for the victim in results too."""
    return state / f"{data}-{victim}"
