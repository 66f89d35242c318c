"""The pretrained weights as trained ones: full fine-tuning (S3's CPT; algorithms.md 2 and 4).

What is trained then is everything that no other group owns: weights and biases of sites and of what is not a site,
embeddings, and the norms unless every adapter has its own.  Weights keep the layout of the switchable layer,
(out, in), also in the file, whatever the pretrained model calls a Conv1D.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from qalof.model.norms import SwitchableNorm

BASE = "base"
"""Name of the group of trainable parameters, and the stem of the file in a checkpoint."""
BASE_FILE = f"{BASE}.safetensors"


def base_parameters(model: nn.Module, others: Iterable[Mapping[str, nn.Parameter]]) -> dict[str, nn.Parameter]:
    """Pretrained parameters of a patched ``model`` by their path in the plain one, a tied one once.

    Args:
        model: patched.
        others: groups of parameters that are trained anyway, and stay where they are.
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
