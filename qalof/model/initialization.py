"""The initial values of the factors of a LoRA branch (docs/methods/adapters.md, "How a branch begins").

==============  ===========================================================================================
``kaiming``     A Kaiming-uniform with a = sqrt(5), B = 0: microsoft/LoRA's code, the default
``gaussian``    A normal, B = 0: the LoRA paper
``orthogonal``  B A = 0 with neither factor zero; even ranks
``loftq``       s B A = the best rank-r approximation of W - fq_b(W), at the adapter's own width b (LoftQ with
                one iteration, arXiv 2310.08659).  W stays as it is, so it serves all widths at once
``pissa``       s B A = the r leading singular components of W, which are taken out of W (arXiv 2404.02948);
                ``pissa_niter_4`` approximates them by 4 subspace iterations
``olora``       B, A = the first r columns and rows of W's QR factors, taken out of W (arXiv 2406.01775)
==============  ===========================================================================================

The last two change the weight that all adapters share, so all must begin with the same product: equal rank and alpha,
no width without a branch, and no tied head, whose embedding would change with it. A checkpoint stores the initial
factors alongside the present ones, as one LoRA of twice the rank, [B, -B0] [A; A0]. On the pretrained weight that is
the same function, so plain PEFT opens it; loading takes B0 A0 out of W again.

PEFT's own ``loftq`` rounds to NF4 and overwrites the base weight; its inits that depend on data (eva, corda, lora_ga)
need a pass over data before training. All of these are refused.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from qalof.errors import BadInputError
from qalof.model.adapter_inits import PISSA
from qalof.precision import at_least_float32

Factors = tuple[torch.Tensor, torch.Tensor]
"""The factors A (rank, in) and B (out, rank)."""


@torch.no_grad()
def decompose(weight: torch.Tensor, rank: int, scaling: float, init: str) -> Factors:
    """Return A0 and B0 of ``pissa`` and ``olora``; scaling * B0 @ A0 is to be subtracted from ``weight`` (out, in)."""
    _check_rank(weight, rank)
    if init == "olora":
        q, r = torch.linalg.qr(at_least_float32(weight))
        return r[:rank].contiguous(), q[:, :rank].contiguous()
    match = PISSA.match(init)
    assert match is not None
    if match[1]:
        left, values, right = torch.svd_lowrank(at_least_float32(weight), rank, niter=int(match[1]))
        return _halves(left, values, right.T, scaling)
    return _truncated(at_least_float32(weight), rank, scaling)


@torch.no_grad()
def compensate(
    weight: torch.Tensor, rank: int, scaling: float, rounded: Callable[[torch.Tensor], torch.Tensor]
) -> Factors | None:
    """Return A and B of ``loftq`` for ``weight`` (out, in); None where rounding changes nothing, as at 32 bits."""
    _check_rank(weight, rank)
    error = at_least_float32(weight) - at_least_float32(rounded(weight))
    return _truncated(error, rank, scaling) if error.any() else None


def _check_rank(weight: torch.Tensor, rank: int) -> None:
    if rank > min(weight.shape):
        shape = "x".join(str(size) for size in weight.shape)
        raise BadInputError(
            f"an init by decomposition needs rank <= {min(weight.shape)} for a {shape} site: got {rank}"
        )


def _truncated(matrix: torch.Tensor, rank: int, scaling: float) -> Factors:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return _halves(left[:, :rank], values[:rank], right[:rank], scaling)


def _halves(left: torch.Tensor, values: torch.Tensor, right: torch.Tensor, scaling: float) -> Factors:
    root = (values / scaling).sqrt()
    return root[:, None] * right, left * root
