"""The base of all config sections."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from qalof.laws import Law, Width
from qalof.layer_bits import read_kv
from qalof.paths import BitmapText

BitmapSpec = Width | BitmapText | list[Width | str]
"""A bitmap in a form that :meth:`qalof.bitmap.Bitmap.parse` reads."""

KvText = Annotated[str, AfterValidator(lambda text: str(read_kv(text)))]
"""The width of a KV cache as text, such as ``k8v4`` with keys at 8 bits and values at 4; first in a union, since errors
then name this form too."""


Limit = Annotated[int, Law(ge=1, off="null takes all examples")]
"""How many validation examples are scored, from the first on."""


class BaseConfig(BaseModel):
    """Base of all sections, in which unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
