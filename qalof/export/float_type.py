"""The types in which a file stores numbers that are not quantized."""

from __future__ import annotations

from enum import StrEnum

import torch

from qalof.errors import BadInputError, nearest_hint


class FloatType(StrEnum):
    """``float32`` keeps every number; the other two round it to nearest and take half the bytes."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"

    @classmethod
    def parse(cls, name: str) -> FloatType:
        """Read a name.

        Raises:
            BadInputError: There is no such type.
        """
        if name not in set(cls):
            law = f"--float-type must be one of {', '.join(cls)}"
            raise BadInputError(f"{law}: got {name!r}; {nearest_hint(name, [str(kind) for kind in cls])}")
        return cls(name)

    @property
    def dtype(self) -> torch.dtype:
        """Torch's."""
        found: torch.dtype = getattr(torch, str(self))
        return found

    @property
    def nbytes(self) -> int:
        """The bytes of a number."""
        return self.dtype.itemsize

    def stored(self, tensor: torch.Tensor, what: str) -> torch.Tensor:
        """Return ``tensor`` in this type; integers, such as masks, stay as they are.

        Raises:
            BadInputError: A number of ``what`` is beyond the range of the type.
        """
        if not tensor.is_floating_point():
            return tensor
        cast = tensor.to(self.dtype)
        if self is not FloatType.FLOAT32 and not torch.isfinite(cast).all():
            raise BadInputError(f"{what} must be finite as {self}: a number is beyond its range; take float32")
        return cast
