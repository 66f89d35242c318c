"""The config of ``sensitivity``."""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from orchestrate.config.base import KvText
from orchestrate.config.sections import CheckpointConfig
from qalof.laws import Seed, Width

TableScore = Literal[
    "fisher",
    "fisher_token",
    "fisher_norm",
    "modelopt",
    "taylor",
    "mse",
    "mae",
    "relative_mse",
    "hessian",
    "kl",
]
"""The scores of sites that become a table for a search."""
TABLE_SCORES: tuple[str, ...] = get_args(TableScore)


class SensitivityConfig(CheckpointConfig):
    """The config of ``qalof sensitivity``: what is lost when one unit alone is rounded to fewer bits."""

    command: Literal["sensitivity"] = "sensitivity"
    """The command that reads this config."""
    score: Literal["metric", "output_error"] | TableScore | list[TableScore] = "metric"
    """What is measured. ``metric``: how much of the task's metric is lost when a unit is reduced. ``output_error``:
    MSE, MAE and relative MSE of each site's output against full precision, on training examples, of which ``limit``
    says how many (64 where it is null). Any other name is a score of every site at every choice, from full precision,
    in a table that a search may use: ``fisher`` is the one to take. A list of such names computes each and compares
    them by rank correlation. ``limit`` says of how many training examples; null takes as many as have 2,048 tokens."""
    reference: Width = 8
    """The bit-width of all other units, and of the unit before it is reduced; it belongs to the score ``metric`` alone.
    """
    weight: list[Width | str] = Field([3, 4, 5, 6, 7, 8])
    """The choices of a weight in a table of scores: bit-widths, such as 4, with an optional group size, such as
    ``4g32``; ``[]`` scores none."""
    activation: list[Width] = Field([])
    """The bit-widths of a layer's input in a table of scores; ``[]`` scores none."""
    kv: list[KvText | Width] = Field([])
    """The bit-widths of the KV cache in a table of scores, each for keys and values alike or apart (``k8v4``); ``[]``
    scores none."""
    seed: Seed = 0
    """The seed of the examples and labels that a table of scores is computed of."""
    reduced: list[Width | str] = Field([4], min_length=1)
    """The bit-widths to which a unit is reduced. A number is for weights, activations and KV cache together; the score
    ``output_error`` also takes ``w4`` for weights alone, ``w4a8``, ``w4a8kv8`` or ``w4a8k8v4``."""
    unit: Literal["site", "block"] = "site"
    """What is reduced at once: a site, or all sites of a block. The score ``output_error`` takes ``site`` alone."""
    metric: str | None = None
    """The metric to rank by; null takes the task's own. It belongs to the score ``metric`` alone."""

    @property
    def widths(self) -> list[int]:
        """The bit-widths to which units are reduced, for the score ``metric``."""
        return [bits for bits in self.reduced if not isinstance(bits, str)]

    @property
    def tables(self) -> tuple[str, ...]:
        """The scores that become tables, in order; none for ``metric`` and ``output_error``."""
        given = self.score if isinstance(self.score, list) else [self.score]
        return tuple(name for name in given if name in TABLE_SCORES)

    @property
    def choices(self) -> dict[str, list[Any]]:
        """The choices of a table by role, without the roles that have none."""
        roles: dict[str, list[Any]] = {"weight": [*self.weight], "activation": [*self.activation], "kv": [*self.kv]}
        return {role: widths for role, widths in roles.items() if widths}

    @field_validator("score", mode="before")
    @classmethod
    def _known(cls, score: Any) -> Any:
        names = score if isinstance(score, list) else [score]
        known = TABLE_SCORES if isinstance(score, list) else ("metric", "output_error", *TABLE_SCORES)
        for name in names:
            if name not in known:
                raise ValueError(f"score must be one of {', '.join(known)}: got {name!r}")
        if not names or len(set(names)) != len(names):
            raise ValueError(f"score must hold different names, at least one: got {score}")
        return score

    @model_validator(mode="after")
    def _score(self) -> Self:
        if self.score == "metric":
            named = [bits for bits in self.reduced if isinstance(bits, str)]
            if named:
                raise ValueError(f"reduced must hold numbers for the score metric: got {named[0]!r}; 4 for example")
            return self
        spoken = f"score {', '.join(self.tables)}" if self.tables else "score output_error"
        others = ("reference", "metric", *(("reduced",) if self.tables else ()))
        for name in others:
            if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default:
                way = "; weight, activation and kv hold its choices" if name == "reduced" else ""
                raise ValueError(f"{name} has no place with the {spoken}, which compares with full precision{way}")
        if self.unit != "site":
            raise ValueError(f"unit must be site for the {spoken}: got {self.unit}; a block has many outputs")
        if self.tables and not self.choices:
            raise ValueError("a table of scores needs choices: weight, activation and kv are all []; set weight=[4]")
        return self
