"""A weight kept as packed integers, and its product with an input.

It takes as many bytes as the packed file (:mod:`qalof.quantization.packing`): b bits per weight, plus scales. Which
kernel multiplies depends on both widths of a site; it is reported and never replaced silently:

``int_mm``  input codes times weight codes in int8, summed exactly in int32, then scaled:
            y = (sum_k q_x q_w) s_x s_w + bias. It needs a weight and an input of at most 8 bits whose values are code
            times scale (symmetric, lsq), and input scales per token or per tensor.  Fake quantization sums the same
            products in fp32, so both agree up to the rounding of sums.  With scales by group the sum is exact in each
            group.
``dequantize``  the weight becomes fp32 for the moment of the product, exactly the numbers of fake quantization.  All
            other cases use this: inputs above 8 bits, grids with a zero, 9 to 16 bits, devices without an integer
            product, and gradients.

Widths 8, 4 and 2 are never unpacked for ``int_mm``: codes that share a byte are cut out as planes, the plane of every
second (fourth) weight is multiplied with every second (fourth) input, and the storage offset is taken off the sum:
sum_k q_x (u_w - o) = sum_k q_x u_w - o sum_k q_x.  Other widths are unpacked to int8 first, which is slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

import torch
from torch.nn import functional

from qalof.errors import BadInputError
from qalof.model.layers.held_weight import INT_MM, HeldWeight, Kernel
from qalof.model.layers.tensor_quantizer import TensorQuantizer
from qalof.precision import at_least_float32
from qalof.quantization.granularity import Granularity
from qalof.quantization.integer_matmul import integer_product, refused_shape, unusable
from qalof.quantization.packing import Packed, pack, unpack_rows
from qalof.quantization.quantizer import QParams, QuantizedTensor, Quantizer
from qalof.quantization.scheme import TensorScheme

_PLANES = {2: 4, 4: 2}
_INT8_BITS = 8


class PackedWeight(HeldWeight):
    """One weight at one width.

    Args:
        stored: the packed weight, (rows, columns).
        activation: the scheme of its inputs.
    """

    def __init__(self, stored: Packed, activation: TensorScheme) -> None:
        self.stored, self.activation = stored, activation
        self._signed_bytes = stored.bits == _INT8_BITS and stored.quantizer.code_range(stored.bits)[0] < 0
        if self._signed_bytes and stored.data.dtype is torch.uint8:
            # the offset of the codes is subtracted, so the bytes multiply as they are
            self.stored = replace(stored, data=(stored.data ^ 128).view(torch.int8))
        self._kernels: dict[tuple[float, str], Kernel] = {}

    @classmethod
    def of(
        cls,
        weight: torch.Tensor,
        bits: float,
        quantizer: Quantizer,
        activation: TensorScheme,
        qparams: QParams | None = None,
    ) -> Self:
        """Pack ``weight`` (rows, columns), whose decoded form must equal its fake quantization.

        Raises:
            BadInputError: The codes of the quantizer do not give its fake quantization, or the width has no codes.
        """
        with torch.no_grad():
            made = cls(pack(quantizer.quantize(weight, bits, qparams), quantizer), activation)
            if not torch.equal(made.dequantize(), quantizer.fake_quantize(weight, bits, qparams).to(torch.float32)):
                raise BadInputError(
                    f"a packed weight must be what the model runs with: quantizer {quantizer.method} at {bits} bits is "
                    "not, since its codes and its fake quantization differ; take another quantizer at this width"
                )
        return made

    @property
    def nbytes(self) -> int:
        """The size in bytes, scales and zero points included."""
        return self.stored.nbytes

    def moved(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """Return this weight with ``change`` applied to all tensors, as ``nn.Module._apply`` does.

        Raises:
            BadInputError: ``change`` is a cast, which would change the scales.
        """
        qparams = self.stored.qparams
        scale, zero_point = change(qparams.scale), None if qparams.zero_point is None else change(qparams.zero_point)
        if scale.dtype is not qparams.scale.dtype:
            raise BadInputError(
                f"a packed weight keeps its scales in {qparams.scale.dtype}: got {scale.dtype}; cast it before"
            )
        return type(self)(
            replace(self.stored, data=change(self.stored.data), qparams=QParams(scale, zero_point)), self.activation
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors that are kept, by name."""
        return self.stored.tensors()

    def over(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """Return the same weight over equal ``tensors`` with the names of :meth:`tensors`."""
        qparams = QParams(tensors["scale"], tensors.get("zero"))
        return type(self)(replace(self.stored, data=tensors["data"], qparams=qparams), self.activation)

    def weight(self) -> torch.Tensor:
        """Return the numbers of fake quantization in fp32, (rows, columns)."""
        return self.dequantize()

    # --- the product ---

    def kernel(self, bits: float, device: torch.device) -> Kernel:
        """Return the kernel that multiplies inputs of ``bits`` on ``device``."""
        key = (bits, device.type)
        if key not in self._kernels:
            reason = self._why_decode(bits, device.type)
            self._kernels[key] = INT_MM if reason is None else Kernel("decode", reason)
        return self._kernels[key]

    def kernel_for(self, inputs: TensorQuantizer, bits: float) -> Kernel:
        """Return the kernel that multiplies inputs that ``inputs`` rounds to ``bits``."""
        return self.kernel(bits, self.stored.data.device)

    def product(
        self, x: torch.Tensor, inputs: TensorQuantizer, bits: float, bias: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return :meth:`linear` of ``x``; None where ``x`` needs a gradient, which packed integers do not have."""
        return None if torch.is_grad_enabled() and x.requires_grad else self.linear(x, inputs, bits, bias)

    def linear(
        self, x: torch.Tensor, quantizer: TensorQuantizer, bits: float, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Return fq(x) W^T + bias, without gradients through ``int_mm``.

        Args:
            x: the unrounded input, (..., columns).
            quantizer: the quantizer of the input.
            bits: the width of the input.
            bias: (rows,) or None.
        """
        if self.kernel(bits, x.device) is not INT_MM:
            return functional.linear(quantizer(x, bits), self.dequantize().to(x.dtype), bias)
        quantized = quantizer.quantize_int8(x, bits)
        codes = quantized.codes.reshape(-1, self.stored.columns)
        product = self.integer_linear(codes, at_least_float32(x).dtype)
        # not in place: the result must not be a view, since autograd would forbid users to write into one
        product = product.view(*x.shape[:-1], self.stored.data.shape[0]) * quantized.scale
        return (product if bias is None else product.add_(bias)).to(x.dtype)

    def integer_linear(self, codes: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Map int8 (tokens, columns) to (tokens, rows) in ``dtype``, float32 or float64.

        The result is the sum of integer products, each times its weight scale.
        """
        planes, offset = self._planes()
        count = len(planes)
        spare = -codes.shape[-1] % count
        padded = functional.pad(codes, (0, spare)) if spare else codes
        inputs = [padded[:, at::count].contiguous() for at in range(count)]
        scale = self.stored.qparams.scale.to(dtype)
        size = self._group_size()
        if size is None:
            whole = self._sum(inputs, planes, offset, slice(None))
            return whole.to(dtype).mul_(scale.reshape(1, -1))
        step, total = size // count, torch.zeros((), dtype=dtype)
        for group in range(scale.shape[-1]):
            part = self._sum(inputs, planes, offset, slice(group * step, (group + 1) * step)).to(dtype)
            part.mul_(scale[:, group])
            total = part if group == 0 else total.add_(part)
        return total

    def dequantize(self) -> torch.Tensor:
        """Return (rows, columns) in fp32, the numbers of fake quantization."""
        stored = self.stored
        if stored.data.dtype is not torch.int8 and stored.bits not in _PLANES:
            return stored.dequantize()
        planes, offset = self._planes()
        codes = planes[0] if len(planes) == 1 else torch.stack(planes, dim=-1).flatten(-2) - offset
        return stored.quantizer.dequantize(
            QuantizedTensor(codes[:, : stored.columns], stored.wide_qparams(), stored.bits)
        )

    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        """Return only the rows at ``indices`` (count,), decoded: (count, columns), fp32."""
        qparams = self.stored.qparams
        by_row = self.stored.quantizer.granularity is not Granularity.TENSOR
        scale = qparams.scale[indices] if by_row else qparams.scale
        zero_point = qparams.zero_point if qparams.zero_point is None or not by_row else qparams.zero_point[indices]
        part = replace(self.stored, data=self.stored.data[indices], qparams=QParams(scale, zero_point))
        return type(self)(part, self.activation).dequantize()

    def _sum(self, inputs: list[torch.Tensor], planes: list[torch.Tensor], offset: int, part: slice) -> torch.Tensor:
        """Return the exact sum over one part of the columns, int32 (tokens, rows)."""
        total = torch.zeros((), dtype=torch.int32)
        for index, (x, plane) in enumerate(zip(inputs, planes, strict=True)):
            product = integer_product(x[:, part].contiguous(), plane[:, part])
            total = product if index == 0 else total.add_(product)
        if offset:
            total.sub_(offset * sum(x[:, part].sum(dim=-1, keepdim=True, dtype=torch.int32) for x in inputs))
        return total

    def _planes(self) -> tuple[list[torch.Tensor], int]:
        """Return int8 (rows, codes) of every n-th column, and the offset that they still contain."""
        stored = self.stored
        signed = stored.quantizer.code_range(stored.bits)[0] < 0
        if stored.data.dtype is torch.int8:
            return [stored.data], 0
        whole = math.ceil(stored.bits)
        offset = 1 << (whole - 1) if signed else 0
        if stored.bits in _PLANES:
            mask = (1 << whole) - 1
            cut = [(stored.data >> (whole * index)) & mask for index in range(_PLANES[whole])]
            return [plane.view(torch.int8) for plane in cut], offset
        return [(unpack_rows(stored.data, whole, stored.columns) - offset).to(torch.int8)], 0

    def _group_size(self) -> int | None:
        quantizer = self.stored.quantizer
        return quantizer.group_size if quantizer.granularity.grouped else None

    def _why_decode(self, bits: float, device: str) -> str | None:
        """Return the reason against ``int_mm``; None where there is none."""
        weight, quantizer = self.stored.quantizer, self.activation.at(bits)
        if bits >= quantizer.full_precision_bits:
            return "inputs are not quantized"
        for what, method, width in (("weight", weight, self.stored.bits), ("input", quantizer, bits)):
            if not method.scaled_codes:
                return f"{what} values of {method.method} are not codes times scales"
            lowest, highest = method.code_range(width)
            if lowest < -128 or highest > 127:
                return f"{what} codes of {width} bits do not fit int8"
        if self.activation.outlier_threshold is not None:
            return "inputs keep outliers in fp16"
        if not (quantizer.granularity.row_is_group or quantizer.granularity is Granularity.TENSOR):
            return f"inputs have scales by {quantizer.granularity}"
        count = 1 if self.stored.data.dtype is torch.int8 else _PLANES.get(int(self.stored.bits), 1)
        size = self._group_size()
        if size is not None and size % count:
            return f"groups of {size} share bytes at {self.stored.bits} bits"
        inner = -(-self.stored.columns // count) if size is None else size // count
        return unusable(device) or refused_shape(device, inner, self.stored.data.shape[0])


def bytes_in(held: Any) -> int:
    """Return the bytes of tensors, however nested."""
    if isinstance(held, torch.Tensor):
        return held.numel() * held.element_size()
    return sum(bytes_in(each) for each in (held.values() if isinstance(held, dict) else held))
