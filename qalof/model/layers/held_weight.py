"""The forms in which a rounded weight is kept: what each costs, and what multiplies it.

=============  =======================================================================================================
``values``     :class:`HeldValues`: as it is multiplied, 4 bytes per weight in fp32
``codes``      :class:`HeldCodes`: integers, 1 byte per weight up to 8 bits, which are dequantized on each forward
``packed``     :class:`qalof.model.layers.packed_weight.PackedWeight`: b bits per weight, and integers multiply without
               gradients
``int8``       :class:`qalof.model.layers.int8_weight.Int8Weight`: values and codes, 5 bytes per weight, and integers
               multiply in training too
=============  =======================================================================================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from qalof.quantization.quantizer import QParams, QuantizedTensor, Quantizer

if TYPE_CHECKING:
    from qalof.model.layers.tensor_quantizer import TensorQuantizer


@dataclass(frozen=True)
class Kernel:
    """The kernel of a site, ``int_mm``, ``dequantize`` or ``float``, and the reason why no faster one is used."""

    name: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


INT_MM, FLOAT = Kernel("int_mm"), Kernel("float")


class HeldWeight(ABC):
    """One rounded weight, (out, in), at one width."""

    @abstractmethod
    def weight(self) -> torch.Tensor:
        """Return the numbers of fake quantization: (out, in)."""

    @abstractmethod
    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors that are kept, by name."""

    @abstractmethod
    def over(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Return the same weight over equal ``tensors`` with the names of :meth:`tensors`, such as a shared file's."""

    def kernel_for(self, inputs: TensorQuantizer, bits: float) -> Kernel:
        """Return the kernel that multiplies inputs that ``inputs`` rounds to ``bits``."""
        return FLOAT

    def product(
        self, x: torch.Tensor, inputs: TensorQuantizer, bits: float, bias: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return fq(x) W^T + bias, (..., out), by the codes; None where the values must multiply instead.

        Args:
            x: the unrounded input, (..., in).
            inputs: the quantizer of the input.
            bits: the width of the input.
            bias: (out,) or None.
        """
        return None


@dataclass(frozen=True)
class HeldValues(HeldWeight):
    """A weight as it is multiplied.

    Attributes:
        values: (out, in).
    """

    values: torch.Tensor

    def weight(self) -> torch.Tensor:
        """Return the values themselves."""
        return self.values

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the values."""
        return {"values": self.values}

    def over(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Return the same weight over equal values."""
        return type(self)(tensors["values"])

    def moved(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """Return the weight with ``change`` applied to its values, as ``nn.Module._apply`` does."""
        return type(self)(change(self.values))


@dataclass(frozen=True)
class HeldCodes(HeldWeight):
    """A weight as integers, one byte each where they fit.

    Attributes:
        quantized: codes (out, in) and their grid.
        quantizer: the quantizer that made them.
    """

    quantized: QuantizedTensor
    quantizer: Quantizer

    @classmethod
    def of(cls, quantized: QuantizedTensor, quantizer: Quantizer) -> Self:
        """Narrow the codes to the smallest integers that hold the range of their width."""
        lowest, highest = quantizer.code_range(quantized.bits)
        for dtype in (torch.int8, torch.uint8):
            if torch.iinfo(dtype).min <= lowest and highest <= torch.iinfo(dtype).max:
                narrow = QuantizedTensor(quantized.codes.to(dtype), quantized.qparams, quantized.bits)
                return cls(narrow, quantizer)
        return cls(quantized, quantizer)

    def weight(self) -> torch.Tensor:
        """Return the dequantized codes."""
        return self.quantizer.dequantize(self.quantized)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the codes, the scale and, where there is one, the zero point."""
        parts = {"codes": self.quantized.codes, "scale": self.quantized.scale, "zero": self.quantized.zero_point}
        return {name: part for name, part in parts.items() if part is not None}

    def over(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Return the same weight over equal codes, scale and zero point."""
        qparams = QParams(tensors["scale"], tensors.get("zero"))
        return type(self)(QuantizedTensor(tensors["codes"], qparams, self.quantized.bits), self.quantizer)
