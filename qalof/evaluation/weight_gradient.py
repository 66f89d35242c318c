"""The gradient of the divergence from full precision at a rounded model, and what it says of other widths.

With x a bitmap, p the distribution of the full-precision model at a labeled position and q that of the model at x,

    KL(x)   = mean over positions of sum_v p_v log(p_v / q_v)
    G_i     = d KL / d W_i at the weights as x rounds them, straight through the rounding
    F_i(c)  = <G_i, E_i(c) - E_i(x_i)>

where E_i(c) is the weight that site i runs with under choice c, its adapter's product included.  F_i(c) is the
first-order change of KL(x) when site i alone goes from x_i to c (docs/methods/guided_search.md).  The gradient costs
one forward at full precision, and one forward and backward at x, per
batch; all choices of all sites are read from it.

A layer that is a look-up, and not a product, has no gradient here and is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from qalof.batching import Progress
from qalof.bitmap import Bitmap, LayerBits
from qalof.errors import BadInputError
from qalof.evaluation.kl import Reference, batch_scores
from qalof.evaluation.site_damage import frozen
from qalof.model.at_bitmap import layers_of, running_weight
from qalof.model.layers.lora_linear import SwitchableLora
from qalof.model.layers.switchable_linear import SwitchableLinear
from qalof.model.sites import site_path
from qalof.model.switchable import SwitchableModel
from qalof.precision import at_least_float32
from qalof.site import Site


@dataclass(frozen=True)
class WeightGradient:
    """The divergence at a bitmap, and its first-order change per site and choice.

    ``kl``: one number in nats per labeled position; ``changes``: site -> choice, as its weight's width is written
    (``4``, ``4g32``) -> change of the mean in nats; 0 at the bitmap's own choice.
    """

    kl: tuple[float, ...]
    changes: Mapping[str, Mapping[str, float]]

    @property
    def mean_kl(self) -> float:
        """The mean over positions, in nats."""
        return sum(self.kl) / len(self.kl)


def weight_gradient(
    model: SwitchableModel,
    reference: Reference,
    bitmap: Bitmap,
    choices: Mapping[str, Sequence[LayerBits]],
    *,
    progress: Progress | None = None,
) -> WeightGradient:
    """Measure KL(x) on the batches of a reference, and what each of ``choices`` would change in it.

    Args:
        model: the model whose reference it is; it returns to its bitmap and mode.
        reference: what the full-precision model predicts (:func:`qalof.evaluation.kl.reference_of`).
        bitmap: x.
        choices: site name -> the layer bits to look at; activations and cache stay as in x.
        progress: a function that is called with (batches done, all batches).

    Raises:
        BadInputError: The batches have no labeled row, or the bitmap does not fit the model.
    """
    sites = [site for site in model.sites if site.name in choices and not site.is_embedding]
    modules = {site.name: model.model.get_submodule(site_path(model.model, site)) for site in sites}
    weights = {site.name: layers_of(model, site)[0].weight for site in sites}
    sums = {name: at_least_float32(torch.zeros_like(weight)) for name, weight in weights.items()}
    kl: list[float] = []
    with model.at(bitmap, eval=True), frozen(model):
        for index in range(len(reference.batches)):
            with torch.enable_grad(), _gathering(model, modules, sums):
                each, _ = batch_scores(model, reference, index)
                if each.numel():
                    each.sum().backward()
            kl += each.detach().double().tolist()
            if progress:
                progress(index + 1, len(reference.batches))
        if not kl:
            raise BadInputError("a gradient needs at least one labeled row: the calibration examples have none")
        changes = {
            site.name: _changes(model, site, bitmap[site.name], choices[site.name], sums[site.name], len(kl))
            for site in sites
        }
    return WeightGradient(tuple(kl), changes)


@contextmanager
def _gathering(
    model: SwitchableModel, modules: Mapping[str, nn.Module], sums: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """Let a backward pass inside the block add, per site, the gradient at the weight that it runs with, (out, in)."""

    def gather(name: str) -> Any:
        def forward(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            # a head that is left out for the moment returns its own input
            if not output.requires_grad or output is inputs[0]:
                return
            linear = module.base_layer if isinstance(module, SwitchableLora) else module
            assert isinstance(linear, SwitchableLinear)
            with torch.no_grad():
                rounded = linear.quantize_input(inputs[0]).flatten(0, -2)

            def backward(gradient: torch.Tensor) -> None:
                sums[name].addmm_(gradient.flatten(0, -2).T.to(sums[name].dtype), rounded.to(sums[name].dtype))

            output.register_hook(backward)

        return forward

    def rooted(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        # frozen weights alone give no graph to go back through; this one begins below every site
        return output.detach().requires_grad_()

    hooks = [model.model.get_input_embeddings().register_forward_hook(rooted)]
    hooks += [module.register_forward_hook(gather(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _changes(
    model: SwitchableModel,
    site: Site,
    now: LayerBits,
    choices: Sequence[LayerBits],
    gradient: torch.Tensor,
    rows: int,
) -> dict[str, float]:
    """Return <G, E(c) - E(now)> by choice, in float64 sums of fp32 products; ``gradient`` is the sum over ``rows``."""
    linear, lora = layers_of(model, site)

    def weight(bits: LayerBits) -> torch.Tensor:
        return running_weight(linear, lora, bits.weight_width, None if lora is None else model.adapter_at(bits.weight))

    here = weight(now)

    def change(bits: LayerBits) -> float:
        if bits.weight_width == now.weight_width:
            return 0.0
        difference = (weight(bits) - here).to(gradient.dtype)
        return float((difference * gradient).sum(dtype=torch.float64)) / rows

    return {str(bits.weight_width): change(bits) for bits in choices}
