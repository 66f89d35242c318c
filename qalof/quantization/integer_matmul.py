"""The only integer product that torch has on every device, and a check that it works on this machine.

``torch._int_mm`` multiplies int8 (m, k) by int8 (k, n) and accumulates in int32, which is exact as long as k * 128 *
128 < 2^31.  On a CPU it runs on oneDNN, fast where the processor has instructions for it (VNNI, AMX). On CUDA it runs
on cuBLASLt, which needs more than 16 rows and sizes that are multiples of 8: rows are padded here, and other shapes are
refused.

The other integer products of torch 2.13 were tried and left out.  ``_weight_int8pack_mm`` and
``_weight_int4pack_mm_for_cpu`` are fast in bfloat16 alone, whose 8 bits of mantissa are coarser than what int8 inputs
keep; in fp32 both are scalar loops (768 to 3072, 128 rows: seconds, where decoding and multiplying takes 0.06).
torchao 0.18 adds CUDA kernels alone: its wheel carries no CPU library.
"""

from __future__ import annotations

from functools import cache

import torch

from qalof import processor

_CUDA_ROWS = 32
_CUDA_MULTIPLE = 8
LONGEST_SUM = 2**31 // (128 * 128) - 1
"""This many int8 products can be added up in an int32 without overflow, whatever their values."""


def unusable(device: str) -> str | None:
    """Say why a type of device such as ``cpu`` has no integer product that is worth using; None where it has one.

    A CPU without instructions for it computes the right numbers, tens of times slower than in float32
    (:mod:`qalof.processor`).
    """
    if not processor.multiplies_int8(device):
        return "this processor has no integer instructions (VNNI or AMX), so float32 is faster"
    return _broken(device)


@cache
def _broken(device: str) -> str | None:
    """Say why the product does not work on ``device``; None where it does.

    One small product is computed and compared with the same product in int64. The operator is not public, so a later
    torch may change or remove it.
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
    """Say why the operator cannot compute a product of these sizes; None where it can."""
    if inner > LONGEST_SUM:
        return f"{inner} products overflow int32"
    if device == "cuda" and (inner % _CUDA_MULTIPLE or columns % _CUDA_MULTIPLE):
        return f"{inner} x {columns} are not both multiples of 8, which CUDA's _int_mm needs"
    return None


def integer_product(codes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the exact product of codes and the transposed weight.

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
