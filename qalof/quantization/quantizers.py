"""The quantizers as three functions, whose last argument says which quantizer it is.

``quantize``, ``dequantize`` and ``fake_quantize`` take any :class:`~qalof.quantization.quantizer.Quantizer`, or a
granularity alone, which means the default: symmetric MinMax in the narrow range (docs/methods/quantizers.md,
"symmetric").
"""

from __future__ import annotations

from functools import cache

import torch

from qalof.quantization.granularity import Granularity
from qalof.quantization.methods.symmetric import Symmetric
from qalof.quantization.quantizer import QuantizedTensor, Quantizer

CONVENTION = "symmetric-minmax-narrow"
"""The name of the default in checkpoints and digests: ranges of two conventions must never be mixed."""


def largest_code(bits: int) -> int:
    """Return Q = 2^(bits-1) - 1 of the narrow range."""
    return int(2 ** (bits - 1)) - 1


def quantize(x: torch.Tensor, bits: float, how: Quantizer | Granularity) -> QuantizedTensor:
    """Return codes of ``x`` in its shape, and their grid; see :meth:`Quantizer.quantize`."""
    return as_quantizer(how).quantize(x, bits)


def dequantize(quantized: QuantizedTensor, how: Quantizer | Granularity) -> torch.Tensor:
    """Return the values of codes, in fp32; ``how`` must be what encoded them."""
    return as_quantizer(how).dequantize(quantized)


def fake_quantize(x: torch.Tensor, bits: float, how: Quantizer | Granularity) -> torch.Tensor:
    """Round ``x`` to the grid of ``bits``; the result has its shape and dtype, and a straight-through gradient.

    At 32 bits the input tensor itself is returned.
    """
    return as_quantizer(how).fake_quantize(x, bits)


def as_quantizer(how: Quantizer | Granularity) -> Quantizer:
    """Return ``how`` itself, or the default quantizer at that granularity."""
    return how if isinstance(how, Quantizer) else _default(how)


@cache
def _default(granularity: Granularity) -> Symmetric:
    return Symmetric(granularity=granularity)
