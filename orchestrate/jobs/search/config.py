"""The config of ``search``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrate.config.base import BaseConfig
from orchestrate.config.sections import CheckpointConfig
from qalof.laws import Law, Seed, Width


class SpaceConfig(BaseConfig):
    """Which widths a search may give to a site; ``same`` follows the weight."""

    weight: list[Width] | None = Field(None, min_length=1)
    """Widths of a weight; None for every width that has an adapter (2, 4 and 8 where adapters have no widths)."""
    activation: Literal["same"] | list[Width] = "same"
    kv: Literal["same"] | list[Width] | None = "same"
    group: Literal["site", "block"] = "site"


class SearchConfig(CheckpointConfig):
    """``qalof search``; objectives default to the task's metric and the weight's bytes."""

    command: Literal["search"] = "search"
    space: SpaceConfig = SpaceConfig()
    objectives: list[str] | None = None
    strategy: str = "tpe"
    strategy_options: dict[str, Any] = Field({})
    max_evaluations: Annotated[int, Law(ge=1, off="null leaves the end to the strategy")] | None = 64
    limits: dict[str, Annotated[float, Law(ge=0)]] = Field({})
    """Cost -> greatest value: ``average_bits``; ``weight_bytes``, the sites' packed weights; ``total_bytes``, all
    tensors of the packed model, its adapters included; or another cost.  No bitmap is scored that packs to more."""
    seed: Seed = 0
