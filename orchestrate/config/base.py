"""The base of all config sections."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict

from qalof.laws import Law, Width
from qalof.paths import BitmapText

BitmapSpec = Width | BitmapText | list[Width | str]
"""A bitmap as :meth:`qalof.bitmap.Bitmap.parse` reads it."""


Limit = Annotated[int, Law(ge=1, off="null takes all examples")]
"""How many validation examples are scored, from the first on."""


class BaseConfig(BaseModel):
    """Base of all sections: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
