"""The one integer product that torch brings everywhere, and whether it works here.

``torch._int_mm``: int8 (m, k) times int8 (k, n), accumulated in int32, exact as long as k * 128 * 128 < 2^31.  On a CPU
it runs on oneDNN (VNNI, AMX), on CUDA on cuBLASLt, which wants more than 16 rows and multiples of 8 elsewhere; rows
are padded here, other shapes are refused.

What else torch 2.13 has was tried and left out.  ``_weight_int8pack_mm`` and ``_weight_int4pack_mm_for_cpu`` are fast
in bfloat16 alone, whose 8 bits of mantissa are coarser than what int8 inputs keep; in fp32 both are scalar loops (768
to 3072, 128 rows: seconds, where decoding and multiplying takes 0.06).  torchao 0.18 adds CUDA kernels alone:
its wheel carries no CPU library.
"""

from __future__ import annotations

from functools import cache

import torch

_CUDA_ROWS = 32
_CUDA_MULTIPLE = 8
LONGEST_SUM = 2**31 // (128 * 128) - 1
"""Products that an int32 can add up, whatever they are."""


@cache
def unusable(device: str) -> str | None:
    """Why there is no integer product on a type of device such as ``cpu``; None where there is one.

    One small product is computed and compared with the same one in int64: the operator is not public, so that it
    may go or change.
    """
    if not hasattr(torch, "_int_mm"):
        return "this torch has no _int_mm"
    a = (torch.arange(32 * 16) % 255 - 127).view(32, 16)
    b = (torch.arange(16 * 16) * 7 % 255 - 127).view(16, 16)
    try:
        product = torch._int_mm(a.to(torch.int8).to(device), b.to(torch.int8).to(device).T).cpu()
    except (RuntimeError, NotImplementedError) as error:
        return f"_int_mm fails on {device}: {str(error).splitlines()[0]}"
    return None if torch.equal(product.to(torch.int64), a @ b.T) else f"_int_mm is wrong on {device}"


def refused_shape(device: str, inner: int, columns: int) -> str | None:
    """Why a product of these sizes is none of the operator's; None where it is."""
    if inner > LONGEST_SUM:
        return f"{inner} products overflow int32"
    if device == "cuda" and (inner % _CUDA_MULTIPLE or columns % _CUDA_MULTIPLE):
        return f"{inner} x {columns} is no multiple of 8, which CUDA's _int_mm wants"
    return None


def integer_product(codes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Exact product.

    Args:
        codes: int8, (rows, inner).
        weight: int8, (columns, inner); may be a view.

    Returns:
        int32, (rows, columns).
    """
    rows = codes.shape[0]
    if codes.device.type == "cuda" and rows < _CUDA_ROWS:
        padded = torch.nn.functional.pad(codes, (0, 0, 0, _CUDA_ROWS - rows))
        return torch._int_mm(padded, weight.T)[:rows]
    return torch._int_mm(codes, weight.T)
