"""Stochastic rounding of the gradients with respect to sites' outputs (CPT, arXiv 2101.09868; docs/methods/cpt.md).

    n = 2^b - 1,  s = (max g - min g) / n,  q = clamp(floor((g - min g) / s + u), 0, n),  g^ = q s + min g,  u ~ U[0, 1)

There is one asymmetric range per tensor, which is the output of a site in one micro-batch. floor(v + u) rounds v up
with the probability of its fraction, so the mean of g^ is g; it equals round(v + u - 1/2) of the official code. As
there, zero is not a level: the zero gradients of padding come back as noise around zero.  A constant gradient stays as
it is.

Each site draws from a generator of its own, which every step seeds by (seed, step, rank, site). So a resumed run draws
what an uninterrupted one would have drawn, and no other draw of the process shifts it.
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
    """Round the gradients of the outputs of ``layers`` in backward passes of forwards run within; with None do nothing.

    Args:
        layers: the outermost modules of the sites; the index of a module seeds its noise.
        bits: the width of a gradient.
        seeds: seed, step and rank.

    Raises:
        BadInputError: The width is illegal.
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
    """Round ``gradient``, of any shape and floating dtype, to 2^bits levels; the mean over the noise is
    ``gradient``.
    """
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
