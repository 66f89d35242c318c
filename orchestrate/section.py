"""The base of all config sections."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

BitmapSpec = int | str | list[int | str]
"""A bitmap as :meth:`qalof.bitmap.Bitmap.parse` reads it."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
