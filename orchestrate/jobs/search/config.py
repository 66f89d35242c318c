"""The config of ``search``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrate.config.base import BaseConfig, KvText
from orchestrate.config.robustness import RobustnessConfig
from orchestrate.config.sections import CheckpointConfig, Limit
from qalof.laws import Law, Seed, Width
from qalof.paths import InputPath
from search.failure import MOST_IN_A_ROW
from search.grouping import Group

WeightChoices = list[Width | str]
"""The widths of a weight, such as ``4``, or ``4g32`` in groups of 32 input features that share a scale."""

CacheChoices = list[KvText | Width]
"""The widths of a cache, such as ``8``, or ``k8v4`` with keys at 8 bits and values at 4."""


class MenuConfig(BaseConfig):
    """The menu of the sites that a pattern matches; what is left out is that of the space."""

    weight: WeightChoices = Field([], min_length=1)
    """The bit-widths of a weight, each with or without a group size."""
    activation: Literal["same"] | list[Width] = "same"
    """The bit-widths of a layer's input; ``same`` follows the weight."""
    kv: Literal["same"] | CacheChoices | None = "same"
    """The bit-widths of the KV cache, each for keys and values alike or apart (``k8v4``); ``same`` follows the weight,
    and null leaves the cache as it is."""


class SpaceConfig(BaseConfig):
    """Which choices a search may give to a site."""

    weight: WeightChoices | None = Field(None, min_length=1)
    """The bit-widths of a weight, each with or without a group size (``4g32``: 32 input features share a scale); null
    takes every width that has an adapter, or 3 to 8 where adapters have no widths."""
    activation: Literal["same"] | list[Width] = "same"
    """The bit-widths of a layer's input; ``same`` follows the weight."""
    kv: Literal["same"] | CacheChoices | None = "same"
    """The bit-widths of the KV cache, each for keys and values alike or apart (``k8v4``: keys at 8, values at 4);
    ``same`` follows the weight, and null leaves the cache as it is."""
    group: Group = "site"
    """What gets one choice: each ``site``; all sites of a ``block`` together; its attention, and its MLP
    (``component``); or query, key and value, and gate and up projections, which runtimes fuse (``fused``)."""
    tied: list[str] = Field([])
    """The patterns of site names, each of which ties all sites that match it to one choice, across blocks; they come
    before ``group``."""
    fixed: dict[str, Width | str] = Field({})
    """The layer bits that sites keep, by a pattern of their names, such as ``w8a8``."""
    menus: dict[str, MenuConfig] = Field({})
    """The menus that sites have of their own, by a pattern of their names."""

    def of_space(self) -> dict[str, Any]:
        """Return the arguments of :meth:`search.space.BitmapSpace.of`."""
        return {
            "weight": self.weight,
            "activation": self.activation,
            "kv": self.kv,
            "group": self.group,
            "tied": self.tied,
            "fixed": self.fixed,
            "menus": {pattern: menu.model_dump(exclude_unset=True) for pattern, menu in self.menus.items()},
        }


class JudgeConfig(BaseConfig):
    """The examples on which the finalists are scored, none of which the search has seen."""

    split: str | None = None
    """Another split of the same data than the ones that are trained and searched on, such as ``test`` or
    ``test[:200]``; null takes the searched split, after the ``limit`` examples that the search scores."""
    limit: Limit | None = None
    """How many of these examples are scored, from the first on; null scores all of them."""


class SearchConfig(CheckpointConfig):
    """The config of ``qalof search``."""

    command: Literal["search"] = "search"
    """The command that reads this config."""
    space: SpaceConfig = SpaceConfig()
    """Which choices a site may get."""
    objectives: list[str] | None = None
    """What is optimized, such as ``max:f1`` and ``min:weight_bytes``; null takes the task's metric and the bytes of the
    weights."""
    strategy: str | None = None
    """The name of the strategy, which chooses the bitmaps to evaluate; null takes ``guided`` where the task has a
    differentiable loss and training examples, and otherwise ``tpe``, and the result says so."""
    strategy_options: dict[str, Any] = Field({})
    """The options of the strategy."""
    max_evaluations: Annotated[int, Law(ge=1, off="null leaves the end to the strategy")] | None = 64
    """How many different bitmaps are evaluated at most; null leaves the end to the strategy."""
    max_failures_in_a_row: Annotated[int, Law(ge=1, off="null never stops for them")] | None = MOST_IN_A_ROW
    """How many bitmaps in a row that cannot be evaluated stop the search with an error; a single one is a failed
    trial."""
    limits: dict[str, Annotated[float, Law(ge=0)]] = Field({})
    """The greatest allowed value of each cost: ``average_bits``; ``weight_bytes``, the sites' packed weights;
    ``total_bytes``, all tensors of the packed model, its adapters included; or another cost. No bitmap that exceeds one
    is scored. Or the least value of a metric, as a share where it is in percent, such as ``adversarial_accuracy: 0.6``,
    and the greatest one where less is better; no bitmap that breaks one is on the front."""
    robustness: RobustnessConfig = RobustnessConfig()
    """The attack behind ``adversarial_accuracy``, where that is an objective or limited."""
    resolve: Annotated[float, Law(gt=0, lt=1, off="null scores limit examples")] | None = None
    """The difference that is to show at two standard errors, as a share of the first measured objective, such as 0.02:
    the noise is measured on a few examples, and as many are scored as it takes, ``limit`` at most."""
    latency: InputPath | None = None
    """The measured latencies of this model, ``latency.json`` of a ``qalof profile`` with ``measures: [latency]``; they
    are the cost ``latency_seconds``, which ``limits`` may bound, and budgets with the option ``budget_of``; null has no
    such cost."""
    judge: JudgeConfig | None = None
    """The examples on which the best mixed and the best uniform bitmap of each budget are scored again and
    compared in pairs; null judges nothing.  The budgets are those of ``guided``, otherwise the costs of the uniform
    bitmaps."""
    seed: Seed = 0
    """The seed of all that is drawn."""
