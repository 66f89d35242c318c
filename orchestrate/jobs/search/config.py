"""The config of ``search``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrate.config.base import BaseConfig
from orchestrate.config.sections import CheckpointConfig
from qalof.laws import Law, Seed, Width


class SpaceConfig(BaseConfig):
    """Which bit-widths a search may give to a site."""

    weight: list[Width] | None = Field(None, min_length=1)
    """The bit-widths of a weight; null takes every one that has an adapter (2, 4 and 8 where adapters have no widths).
    """
    activation: Literal["same"] | list[Width] = "same"
    """The bit-widths of a layer's input; ``same`` follows the weight."""
    kv: Literal["same"] | list[Width] | None = "same"
    """The bit-widths of the KV cache; ``same`` follows the weight, and null leaves the cache as it is."""
    group: Literal["site", "block"] = "site"
    """What gets one choice: each ``site``, or all sites of a ``block`` together."""


class SearchConfig(CheckpointConfig):
    """The config of ``qalof search``."""

    command: Literal["search"] = "search"
    """The command that reads this config."""
    space: SpaceConfig = SpaceConfig()
    """Which bit-widths a site may get."""
    objectives: list[str] | None = None
    """What is optimized, such as ``max:f1`` and ``min:weight_bytes``; null takes the task's metric and the bytes of the
    weights."""
    strategy: str = "tpe"
    """The name of the strategy, which chooses the bitmaps to evaluate."""
    strategy_options: dict[str, Any] = Field({})
    """The options of the strategy."""
    max_evaluations: Annotated[int, Law(ge=1, off="null leaves the end to the strategy")] | None = 64
    """How many different bitmaps are evaluated at most; null leaves the end to the strategy."""
    limits: dict[str, Annotated[float, Law(ge=0)]] = Field({})
    """The greatest allowed value of each cost: ``average_bits``; ``weight_bytes``, the sites' packed weights;
    ``total_bytes``, all tensors of the packed model, its adapters included; or another cost. No bitmap that exceeds one
    is scored."""
    seed: Seed = 0
    """The seed of all that is drawn."""
