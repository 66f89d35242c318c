"""Stochastic rounding of the gradients with respect to sites' outputs (CPT, arXiv 2101.09868; algorithms.md 4).

    n = 2^b - 1,  s = (max g - min g) / n,  q = clamp(floor((g - min g) / s + u), 0, n),  g^ = q s + min g,  u ~ U[0, 1)

One asymmetric range a tensor, that is, a site's output in one micro-batch.  floor(v + u) rounds v up with the
probability of its fraction, so that the mean of g^ is g; it is the official code's round(v + u - 1/2).  Like there,
zero is no level: the zero gradients of padding come back as noise around zero.  A constant gradient stays as it is.

Each site draws from a generator of its own that is seeded anew for every step by (seed, step, rank, site), so that a
resumed run draws what an uninterrupted one would have drawn, and no other draw of the process shifts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from qalof.layer_bits import check_width
from qalof.precision import at_least_float32


@contextmanager
def rounded_gradients(layers: Sequence[nn.Module], bits: int | None, *seeds: int) -> Iterator[None]:
    """Round the gradients of the outputs of ``layers`` in backward passes of forwards run within; None: do nothing.

    Args:
        layers: outermost modules of the sites; the index of one seeds its noise.
        bits: of a gradient.
        seeds: seed, step and rank.

    Raises:
        BadInputError: an illegal width.
    """
    if bits is None:
        yield
        return
    check_width(bits, "gradient_bits")
    handles = []
    for index, layer in enumerate(layers):
        generator = torch.Generator(next(layer.parameters()).device)
        generator.manual_seed(int(np.random.SeedSequence((*seeds, index)).generate_state(1, np.uint64)[0] >> 1))
        handles.append(layer.register_forward_hook(partial(_watch, bits, generator)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def round_stochastically(gradient: torch.Tensor, bits: int, generator: torch.Generator) -> torch.Tensor:
    """``gradient``, any shape and floating dtype, on a grid of 2^bits levels; its mean over the noise is itself."""
    wide = at_least_float32(gradient)
    low, high = torch.aminmax(wide)
    levels = 2**bits - 1
    scale = (high - low) / levels
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    noise = torch.rand(wide.shape, generator=generator, dtype=wide.dtype, device=wide.device)
    codes = noise.add_((wide - low).div_(scale)).floor_().clamp_(0, levels)
    return codes.mul_(scale).add_(low).to(gradient.dtype)


def _watch(bits: int, generator: torch.Generator, layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
    if output.requires_grad:
        output.register_hook(lambda gradient: round_stochastically(gradient, bits, generator))
