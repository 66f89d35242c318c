"""How a step is carried out, apart from what it computes: which weights train, in which precision, compiled or not.

``full_finetune``: the pretrained weights train too, besides adapters or without any.

``precision="bf16"``: the forward pass under autocast.  Parameters, gradients of parameters, the optimizer and all
arithmetic of quantizers (ranges, codes, steps) stay in fp32; products take their operands in bf16, so that a value on
an 8-bit grid is rounded once more, to 8 significant bits, on its way into one.

``compile``: the model becomes graphs of ``torch.compile``.  Bits are guards of a graph, so that each configuration
compiles once, minutes for a model of GPT-2's size; frozen weights are rounded within the graph, not held.  Beyond
:data:`CONFIGURATIONS` of them, which an objective that draws a width for each site soon has, torch runs eagerly.
Rounding of gradients and shifted embeddings need hooks that change from step to step, and are refused.

``activation_checkpointing``: blocks run again for their gradients, at the bits of their own forward
(:mod:`qalof.model.activation_checkpointing`): the same gradients, bit for bit.

AdamW is fused on a GPU; a checkpoint of one kind goes on under the other.
"""

from __future__ import annotations

import torch

from qalof.errors import BadInputError
from qalof.model.switchable import SwitchableModel
from qalof.training.objectives import Objective

CONFIGURATIONS = 64
"""How many bitmaps are compiled before torch gives up."""


def prepare(
    model: SwitchableModel,
    objective: Objective,
    *,
    full_finetune: bool,
    compiled: bool,
    activation_checkpointing: bool,
) -> None:
    """Make ``model`` ready; see the module.

    Raises:
        BadInputError: a model that was built otherwise, nothing to train, or what cannot be compiled.
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
