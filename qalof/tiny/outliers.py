"""Outlier channels for the tiny model, as large models develop them by themselves.

A few channels of a large transformer's normalized activations are tens of times larger than the rest, and they are what
makes activations hard to round: one scale per token must span them (LLM.int8(), arXiv 2208.07339; SmoothQuant, arXiv
2211.10438).  A model of one million parameters has none: it answered every question at 4 bits as well as at 32, so it
was not a test object.  So SmoothQuant's equivalence is applied backwards:

    gain_c, bias_c of a LayerNorm  times factor;    column c of the weight that reads it  divided by factor

for a few channels c of each LayerNorm inside a block.  The factor is a power of two, so no bit of a product changes,
and the model computes exactly the same at full precision.
"""

from __future__ import annotations

import math
import random

import torch
from transformers import GPT2LMHeadModel


def add_outliers(model: GPT2LMHeadModel, channels: int, factor: float, seed: int) -> None:
    """Scale up ``channels`` channels of every LayerNorm in a block, in place.

    Args:
        model: the model, whose function stays the same.
        channels: the number of features, drawn from ``seed`` for each LayerNorm.
        factor: a power of two.

    Raises:
        ValueError: The factor is another number, which would change the function.
    """
    if not math.log2(factor).is_integer():
        raise ValueError(f"the factor of an outlier must be a power of two: got {factor}")
    for index, block in enumerate(model.transformer.h):
        for norm, layer in ((block.ln_1, block.attn.c_attn), (block.ln_2, block.mlp.c_fc)):
            drawn = random.Random(f"{seed}-{index}-{layer.nf}").sample(range(norm.weight.numel()), channels)
            with torch.no_grad():
                norm.weight[drawn] *= factor
                norm.bias[drawn] *= factor
                layer.weight[drawn] /= factor  # Conv1D: (in, out)
