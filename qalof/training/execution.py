"""The execution of a step, apart from what it computes: which weights train, in which precision, compiled or not.

``full_finetune``: the pretrained weights train too, with adapters or without any.

``precision="bf16"``: the forward pass runs under autocast.  Parameters, gradients of parameters, the optimizer and all
arithmetic of quantizers (ranges, codes, steps) stay in fp32; products take their operands in bf16, so a value on an
8-bit grid is rounded once more, to 8 significant bits, before a product.  On a processor without bf16 instructions,
where such products are many times slower than in fp32 (:mod:`qalof.processor`), training stays in fp32 and says so.

``compile``: the model becomes graphs of ``torch.compile``. Bits are guards of a graph, so each configuration compiles
once, which takes minutes for a model of GPT-2's size; frozen weights are rounded within the graph and not cached.
Beyond :data:`CONFIGURATIONS` configurations, which an objective that draws a width per site soon reaches, torch runs
eagerly. Rounding of gradients and shifted embeddings need hooks that change from step to step, so they are refused.

``activation_checkpointing``: blocks run again for their gradients, at the bits of their own forward
(:mod:`qalof.model.activation_checkpointing`), which gives the same gradients, bit for bit.

AdamW is fused on a GPU; a checkpoint of one kind can be resumed with the other.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Literal

import torch

from qalof import processor
from qalof.errors import BadInputError
from qalof.model.switchable import SwitchableModel
from qalof.training.objectives import Objective

_log = logging.getLogger(__name__)

CONFIGURATIONS = 64
"""This many bitmaps are compiled before torch stops compiling."""


def prepare(
    model: SwitchableModel,
    objective: Objective,
    *,
    full_finetune: bool,
    compiled: bool,
    activation_checkpointing: bool,
) -> None:
    """Prepare ``model`` for training; see the module.

    Raises:
        BadInputError: The model was built with other settings, there is nothing to train, or the objective cannot be
            compiled.
    """
    if full_finetune and not model.settings.full_finetune:
        raise BadInputError(
            "full_finetune needs a model that trains and saves its pretrained weights: got one that does not; "
            "build it with SwitchSettings(full_finetune=True)"
        )
    if not model.trainable_groups():
        raise BadInputError("nothing is left to train: give adapters, trained norms or full_finetune")
    if activation_checkpointing:
        model.recompute_activations()
    if not compiled:
        return
    if objective.hooked:
        raise BadInputError("compile cannot follow gradient_bits or an attack, whose hooks change: set compile false")
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, CONFIGURATIONS)
    model.model.compile()


def runs_in_bf16(precision: Literal["fp32", "bf16"], device: torch.device) -> bool:
    """Return whether a training of ``precision`` takes its products in bf16 on ``device``; the log says once why not.

    Args:
        precision: what the settings ask for.
        device: where the model is.
    """
    if precision == "fp32" or processor.multiplies_bf16(device.type):
        return precision == "bf16"
    _say_fp32()
    return False


@cache
def _say_fp32() -> None:
    _log.warning(
        "training runs in fp32, not in bf16: this processor has no bf16 instructions (AVX512-BF16 or AMX), without "
        "which bf16 is many times slower than fp32"
    )
