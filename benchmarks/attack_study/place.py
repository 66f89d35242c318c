"""What every part of the study is given."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from attack_study.scales import Scale
from qalof.attacks.substitutes.masked_words import LEFT_CONTEXT


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
