"""The layers, active adapters and effective weights that a switchable model runs at one bitmap."""

from __future__ import annotations

import torch
from torch import nn

from qalof.layer_bits import WeightWidth
from qalof.model.layers.lora_linear import MergeOrder, SwitchableLora
from qalof.model.layers.switchable_linear import SwitchableLinear
from qalof.model.norms import SwitchableNorm
from qalof.model.sites import site_path
from qalof.model.switchable import SwitchableModel
from qalof.site import Site


def layers_of(model: SwitchableModel, site: Site) -> tuple[SwitchableLinear, SwitchableLora | None]:
    """Return the switchable layer of a site, and its branches if it has any."""
    outer = model.model.get_submodule(site_path(model.model, site))
    if isinstance(outer, SwitchableLora):
        outer, lora = outer.base_layer, outer
    else:
        lora = None
    assert isinstance(outer, SwitchableLinear)
    return outer, lora


def active_branch(lora: SwitchableLora | None) -> tuple[torch.Tensor, torch.Tensor, float] | None:
    """Return A, B and s of the adapter that a site runs; None where it runs none."""
    return None if lora is None or lora.active is None else lora.factors(lora.active)


def active_tensor(model: nn.Module, name: str) -> torch.Tensor:
    """Return a tensor of a patched ``model`` by its name in the unpatched one; a norm gives that of its active copy."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, SwitchableNorm):
        module = module.norm if module.active is None else module.copies[module.active]
    tensor = getattr(module, leaf)
    assert isinstance(tensor, torch.Tensor)
    return tensor


def effective_weight(model: SwitchableModel, site: Site) -> torch.Tensor:
    """Return what is rounded at a site, (out, in): its weight, with the branch in it under ``merge_then_quantize``."""
    linear, lora = layers_of(model, site)
    if lora is None or lora.active is None or model.settings.merge is not MergeOrder.MERGE_THEN_QUANTIZE:
        return linear.weight.detach()
    return lora.merged_weight(lora.active).detach()


def running_weight(
    linear: SwitchableLinear, lora: SwitchableLora | None, width: WeightWidth, adapter: str | None
) -> torch.Tensor:
    """Return the matrix that multiplies a site's input at ``width`` with the branch of ``adapter`` in it, (out, in).

    Args:
        linear: the site's layer.
        lora: its branches, if it has any.
        width: what the weight is rounded to.
        adapter: the name of the branch that runs; None for none.
    """
    if lora is None or adapter is None:
        return linear.rounded_weight(width)
    quantize = linear.quantize_weight
    if lora.merge_order is MergeOrder.MERGE_THEN_QUANTIZE:
        return quantize(lora.merged_weight(adapter), width)
    branch = lora.product(adapter)
    if lora.merge_order is MergeOrder.QUANTIZE_PRODUCT:
        branch = quantize(branch, width)
    elif lora.merge_order is MergeOrder.QUANTIZE_FACTORS:
        a, b, scaling = lora.factors(adapter)
        branch = scaling * (quantize(b, width) @ quantize(a, width))
    return linear.rounded_weight(width) + branch
