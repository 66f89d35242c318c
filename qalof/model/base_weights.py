"""Full fine-tuning: the pretrained weights are trained (S3's CPT, docs/systems.md; docs/methods/cpt.md).

Everything that no other group owns is trained then: weights and biases of sites and of what is not a site, embeddings,
and the norms unless every adapter has its own.  Weights keep the layout of the switchable layer, (out, in), also in the
file, even where the pretrained model has a Conv1D.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from qalof.model.norms import SwitchableNorm

BASE = "base"
"""The name of this group of trainable parameters, and the stem of its file in a checkpoint."""
BASE_FILE = f"{BASE}.safetensors"


def base_parameters(model: nn.Module, others: Iterable[Mapping[str, nn.Parameter]]) -> dict[str, nn.Parameter]:
    """Return the pretrained parameters of a patched ``model`` by their path in the plain one; a tied one occurs once.

    Args:
        model: the patched model.
        others: groups of parameters that are trained anyway; they are left out.
    """
    taken = {id(parameter) for group in others for parameter in group.values()}
    for module in model.modules():
        if isinstance(module, SwitchableNorm):
            taken |= {id(parameter) for parameter in module.parameters()}
    return {
        path.replace(".base_layer.", "."): parameter
        for path, parameter in model.named_parameters()
        if id(parameter) not in taken
    }
