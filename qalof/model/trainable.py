"""The parameters that are trained, by owner.

There is one group per adapter, with the norms that are copied for it; ``head``, a task's head; ``norms`` that all
widths share; ``steps`` that LSQ learns; and ``base``, the pretrained weights, under ``full_finetune``.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel

from qalof.model import adapters as lora
from qalof.model.base_weights import BASE, base_parameters
from qalof.model.norms import trained_norms
from qalof.model.pretrained import HeadKind
from qalof.model.quantizer_state import STEPS, learned_steps
from qalof.model.settings import SwitchSettings


def head_parameters(model: PreTrainedModel, head: HeadKind) -> dict[str, nn.Parameter]:
    """Return the parameters of a task head by path; a causal LM has none, since its head is pretrained."""
    if head is HeadKind.CAUSAL_LM:
        return {}
    prefix = f"{model.base_model_prefix}."
    return {path: p for path, p in model.named_parameters() if not path.startswith(prefix)}


def trainable_groups(
    model: PreTrainedModel, head: HeadKind, adapters: Iterable[str], settings: SwitchSettings
) -> dict[str, dict[str, nn.Parameter]]:
    """Return the groups of a patched model, each by path; those of adapters may be empty.

    Args:
        model: a transformers model whose sites are switchable.
        head: the kind of its head.
        adapters: the names of its adapters.
        settings: how it was made switchable.
    """
    norms = settings.norms
    groups = {name: lora.adapter_parameters(model, name) | trained_norms(model, norms, name) for name in adapters}
    shared = {
        "head": head_parameters(model, head),
        "norms": trained_norms(model, norms),
        STEPS: learned_steps(model),
    }
    groups |= {name: group for name, group in shared.items() if group}
    if settings.full_finetune:
        groups[BASE] = base_parameters(model, groups.values())
    return groups
