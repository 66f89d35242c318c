"""HAWQ-V2's curvature of the loss, per site: the trace of the Hessian of its weight, by Hutchinson's probes.

With v of independent signs, E[v_i (H v)_i] = Tr(H_ii), the block of site i, whatever the other blocks are; so one
probe, one gradient of a gradient, serves all sites.  H is that of the mean cross entropy of the true labels at the
reference. The score of a choice is (Tr(H_ii) / n_i) |Q(W_i) - W_i|^2, n_i the number of weights.

Attention must not be fused, since fused kernels have no second derivative.  Weights must be in full precision, since
rounding has no second derivative either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from qalof.errors import BadInputError
from qalof.evaluation.label_rows import LabeledBatch
from qalof.evaluation.site_damage import layer_bits_at
from qalof.model.at_bitmap import running_weight
from qalof.model.patch import SwitchableSite
from qalof.model.switchable import SwitchableModel


def trace_probe(
    model: SwitchableModel, batches: Sequence[LabeledBatch], generator: torch.Generator
) -> dict[str, float]:
    """Return v H v of each site's weight, for one v of signs, over all ``batches``.

    Args:
        model: a model in eval mode, at a bitmap with weights in full precision; nothing of it changes.
        batches: inputs with their true labels.
        generator: draws the signs, on the CPU.

    Raises:
        BadInputError: A weight is rounded.
    """
    switches = model.switches
    rounded = [switch for switch in switches if switch.linear.bits.weight < _full(switch)]
    if rounded:
        raise BadInputError(
            f"score hessian needs weights in full precision: {rounded[0].site.name} is at "
            f"{rounded[0].linear.bits.weight_width} bits; take reference 32"
        )
    found = dict.fromkeys((switch.site.name for switch in switches), 0.0)
    with _only_weights(model) as weights, sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        signs = [_signs(weight, generator) for weight in weights]
        rows = 0
        for batch in batches:
            logits, labels = batch.run(model)
            rows += len(labels)
            loss = cross_entropy(logits, labels, reduction="sum")
            gradients = torch.autograd.grad(loss, weights, create_graph=True)
            along = torch.stack([(g * v).sum() for g, v in zip(gradients, signs, strict=True)]).sum()
            products = torch.autograd.grad(along, weights)
            for switch, v, product in zip(switches, signs, products, strict=True):
                found[switch.site.name] += float((v * product).double().sum())
    return {site: value / rows for site, value in found.items()}


@torch.no_grad()
def curvature(
    model: SwitchableModel, traces: Mapping[str, float], choices: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return (Tr(H) / n) |error|^2 by site and choice, with the error of weight and branch at the choice's width.

    Args:
        model: a model at the reference.
        traces: the trace of each site.
        choices: widths with an optional group size.

    Raises:
        BadInputError: A choice is no width.
    """
    found: dict[str, dict[str, float]] = {}
    for switch in model.switches:
        reference, adapter = switch.state
        before, held = _weight(switch), set(switch.linear.held_tensors())
        mean = traces[switch.site.name] / switch.site.weights
        for choice in choices:
            bits = layer_bits_at(reference, "weight", choice)
            switch.set(bits, model.adapter_at(bits.weight) if switch.site.has_adapter else None)
            squared = float((_weight(switch) - before).double().square().sum())
            switch.set(reference, adapter)
            found.setdefault(switch.site.name, {})[choice] = mean * squared
        if set(switch.linear.held_tensors()) - held:
            switch.linear.forget()
    return found


def _full(switch: SwitchableSite) -> float:
    width: float = switch.linear.scheme.weight.at(switch.linear.bits.weight_width).full_precision_bits
    return width


def _weight(switch: SwitchableSite) -> torch.Tensor:
    lora = switch.lora
    return running_weight(switch.linear, lora, switch.linear.bits.weight_width, None if lora is None else lora.active)


def _signs(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.randint(0, 2, weight.shape, generator=generator, dtype=torch.int8)
    return (2 * drawn - 1).to(weight.device, weight.dtype)


@contextmanager
def _only_weights(model: SwitchableModel) -> Iterator[list[torch.Tensor]]:
    """Let the sites' weights alone ask for gradients within the block, and yield them."""
    asked = {parameter: parameter.requires_grad for parameter in model.parameters()}
    weights = [switch.linear.weight for switch in model.switches]
    try:
        for parameter in asked:
            parameter.requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
        yield list(weights)
    finally:
        for parameter, wanted in asked.items():
            parameter.requires_grad_(wanted)
