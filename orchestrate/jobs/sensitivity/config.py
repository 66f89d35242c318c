"""The config of ``sensitivity``."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from orchestrate.config.sections import CheckpointConfig
from qalof.laws import Width


class SensitivityConfig(CheckpointConfig):
    """``qalof sensitivity``: what each unit suffers when it alone is rounded to fewer bits."""

    command: Literal["sensitivity"] = "sensitivity"
    score: Literal["metric", "output_error"] = "metric"
    """``metric``: what lowering a unit costs on the task; ``output_error``: MSE, MAE and relative MSE of each site's
    output against full precision, on training examples (``limit``: how many, 64 where it is null)."""
    reference: Width = 8
    """Bits of all other units, and of the unit before it is lowered; of the score ``metric`` alone."""
    lowered: list[Width | str] = Field([4], min_length=1)
    """Bits to lower to: a number for weights, activations and KV cache together; of the score ``output_error`` also
    ``w4`` for weights alone, ``w4a8`` or ``w4a8kv8``."""
    unit: Literal["site", "block"] = "site"
    """What is lowered at once; an output error is a site's."""
    metric: str | None = None
    """The task's metric to rank by, None for its own; of the score ``metric`` alone."""

    @property
    def widths(self) -> list[int]:
        """What :attr:`lowered` holds for the score ``metric``."""
        return [bits for bits in self.lowered if not isinstance(bits, str)]

    @model_validator(mode="after")
    def _score(self) -> Self:
        if self.score == "metric":
            named = [bits for bits in self.lowered if isinstance(bits, str)]
            if named:
                raise ValueError(f"lowered must hold numbers for the score metric: got {named[0]!r}; 4 for example")
            return self
        for name in ("reference", "metric"):
            if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no place with the score output_error, which compares with full precision")
        if self.unit != "site":
            raise ValueError(f"unit must be site for the score output_error: got {self.unit}; a block has many outputs")
        return self
