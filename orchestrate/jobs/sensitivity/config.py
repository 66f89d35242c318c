"""The config of ``sensitivity``."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from orchestrate.config.sections import CheckpointConfig
from qalof.laws import Width


class SensitivityConfig(CheckpointConfig):
    """The config of ``qalof sensitivity``: what is lost when one unit alone is rounded to fewer bits."""

    command: Literal["sensitivity"] = "sensitivity"
    """The command that reads this config."""
    score: Literal["metric", "output_error"] = "metric"
    """What is measured. ``metric``: how much of the task's metric is lost when a unit is reduced. ``output_error``:
    MSE, MAE and relative MSE of each site's output against full precision, on training examples, of which ``limit``
    says how many (64 where it is null)."""
    reference: Width = 8
    """The bit-width of all other units, and of the unit before it is reduced; it belongs to the score ``metric`` alone.
    """
    lowered: list[Width | str] = Field([4], min_length=1)
    """The bit-widths to which a unit is reduced. A number is for weights, activations and KV cache together; the score
    ``output_error`` also takes ``w4`` for weights alone, ``w4a8`` or ``w4a8kv8``."""
    unit: Literal["site", "block"] = "site"
    """What is reduced at once: a site, or all sites of a block. The score ``output_error`` takes ``site`` alone."""
    metric: str | None = None
    """The metric to rank by; null takes the task's own. It belongs to the score ``metric`` alone."""

    @property
    def widths(self) -> list[int]:
        """The bit-widths to which units are reduced, for the score ``metric``."""
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
