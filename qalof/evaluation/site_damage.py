"""What rounding one site alone does to its output, and to the loss in first and second order, for all choices at once.

One forward pass shows every site its input x and output y at a reference bitmap, and one backward pass of the *summed*
loss gives every site the gradient g at its output.  For a choice c of one site, its output becomes y_c: the weight, the
input, or the keys and values are rounded as the site itself would round them, with the adapter of that width.  With the
error e = y_c - y, (tokens, outputs), a :class:`Formula` adds up what it needs of g, e and y.  So the price is a forward
and a backward pass and one product per site and choice; no site is ever run in the whole model at another width.

A place where two modules multiply by one weight, an embedding and the head that is tied to it, counts in both.  Norms
that are copied per adapter stay those of the reference: x is what the reference's norm lets through.

Labels may be the data's, or drawn from the model's own distribution, row by row, from a generator: then the expected
square of a gradient is Fisher's information, and half of e F e is KL to second order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, embedding

from qalof.errors import BadInputError
from qalof.evaluation.label_rows import LabeledBatch
from qalof.layer_bits import FULL_PRECISION, LayerBits, read_kv
from qalof.model.layers.kv_cache import quantize_kv
from qalof.model.layers.switchable_embedding import SwitchableEmbedding, TiedHead
from qalof.model.patch import SwitchableSite
from qalof.model.switchable import SwitchableModel
from qalof.precision import at_least_float32
from qalof.site import HeadMode

Choices = Mapping[str, Sequence[str]]
"""The choices by role, such as ``{"weight": ("4", "8"), "kv": ("8", "k8v4")}``."""

Terms = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""A function of gradient, error and output, (tokens, outputs) each, in fp32 at least, to sums (numbers,) in float64."""

SAMPLED_AT_ONCE = 64
"""How many rows of probabilities are in float64 at once."""


@dataclass(frozen=True)
class Formula:
    """What is added up over tokens, and of which labels the gradient is."""

    terms: Terms
    """What the formula adds up."""
    labels: str | None
    """Which labels the gradient takes: ``model`` draws them from the model's distribution, ``data`` has the true ones,
    and None needs no gradient."""


@dataclass(frozen=True)
class DamageSums:
    """Sums over the tokens of some batches."""

    values: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
    """The sums of the formula, by role, site and choice."""
    rows: int
    """The number of labeled rows."""
    tokens: int
    """The number of real tokens."""


@dataclass(frozen=True)
class _Place:
    """A module whose output depends on a site's rounding: usually the outermost module of the site, and it alone."""

    switch: SwitchableSite
    module: nn.Module
    run: Callable[[torch.Tensor], torch.Tensor]


def layer_bits_at(reference: LayerBits, role: str, choice: str) -> LayerBits:
    """Return the layer bits of a site with one role at ``choice``: a width, of weights with an optional group size, and
    of the cache with other bits for keys than for values, such as ``k8v4``.

    Raises:
        BadInputError: The choice is no width.
    """
    if role == "weight":
        parsed = LayerBits.parse(f"w{choice}")
        return replace(parsed, activation=reference.activation, kv=reference.kv)
    if role == "kv":
        return replace(reference, kv=read_kv(choice))
    if not (choice.isascii() and choice.isdigit()):
        raise BadInputError(f"a choice of role {role} must be a bit-width: got {choice!r}; only weights have groups")
    return replace(reference, **{role: int(choice)})


def damage_sums(
    model: SwitchableModel,
    batch: LabeledBatch,
    choices: Choices,
    formula: Formula,
    generator: torch.Generator | None = None,
) -> DamageSums:
    """Return the sums of one batch for each site alone at each of its choices.

    Args:
        model: a model at the reference bitmap and in eval mode, which it keeps.
        batch: its inputs and labels.
        choices: the choices by role; a site without keys and values has none of role ``kv``, an embedding has weights
            alone.
        formula: what is added up.
        generator: draws labels from the model's distribution, on the CPU; not needed for other labels.

    Raises:
        BadInputError: A choice is no width, or not one of the site's quantizer.
    """
    watch = _Watch(model, batch, choices, formula)
    with frozen(model), watch.hooked(), torch.set_grad_enabled(formula.labels is not None):
        logits, labels = batch.run(model)
        if formula.labels is not None:
            if formula.labels == "model":
                assert generator is not None
                labels = sampled_labels(logits, generator)
            cross_entropy(logits, labels, reduction="sum").backward()
    return DamageSums(watch.found(), len(labels), batch.tokens)


@torch.no_grad()
def sampled_labels(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a label per row, (rows,), drawn from the distribution of ``logits`` (rows, classes).

    One uniform number per row, from a generator of the CPU, is looked up in the cumulated distribution.  So the labels
    are the same on every device, but where the last bits of the logits decide.
    """
    drawn = torch.rand(len(logits), generator=generator, dtype=torch.float64).to(logits.device)
    found = []
    for part, share in zip(logits.split(SAMPLED_AT_ONCE), drawn.split(SAMPLED_AT_ONCE), strict=True):
        cumulated = part.double().softmax(dim=-1).cumsum(dim=-1)
        place = torch.searchsorted(cumulated, share.unsqueeze(-1) * cumulated[:, -1:], right=True)
        found.append(place.squeeze(-1).clamp(max=logits.shape[-1] - 1))
    return torch.cat(found)


class _Watch:
    """Sees inputs, outputs and gradients as they pass, and adds up the errors of all choices there."""

    def __init__(self, model: SwitchableModel, batch: LabeledBatch, choices: Choices, formula: Formula) -> None:
        self.model, self.batch, self.choices, self.formula = model, batch, choices, formula
        self.sums: dict[tuple[str, str, str], torch.Tensor] = {}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Watch all places within the block."""
        handles = []
        for switch in self.model.switches:
            places = _places(self.model, switch)
            # an output's own error is that of the site itself; what a gradient weighs adds up over the places
            for place in places if self.formula.labels is not None else places[:1]:
                handles.append(place.module.register_forward_hook(self._hook(place)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def found(self) -> dict[str, dict[str, dict[str, list[float]]]]:
        """Return the sums by role, site and choice, in the order of sites and choices."""
        values: dict[str, dict[str, dict[str, list[float]]]] = {role: {} for role in self.choices}
        for switch in self.model.switches:
            for role, choice in self._pairs(switch):
                key = (role, switch.site.name, choice)
                values[role].setdefault(switch.site.name, {})[choice] = self.sums[key].tolist()
        return values

    def _pairs(self, switch: SwitchableSite) -> Iterator[tuple[str, str]]:
        for role, choices in self.choices.items():
            inert = (role == "kv" and switch.site.kv is None) or (role != "weight" and switch.site.is_embedding)
            yield from () if inert else ((role, choice) for choice in choices)

    def _hook(self, place: _Place) -> Any:
        def see(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            x, y = inputs[0].detach(), output.detach()
            if self.formula.labels is None:
                self._add(place, x, y, y)
                return None
            if not output.requires_grad:
                output = y.requires_grad_()
            output.register_hook(lambda gradient: self._add(place, x, y.detach(), gradient))
            return output

        return see

    @torch.no_grad()
    def _add(self, place: _Place, x: torch.Tensor, y: torch.Tensor, gradient: torch.Tensor) -> None:
        real = self._real(y)
        g, before = (at_least_float32(t[real] if real is not None else t).flatten(0, -2) for t in (gradient, y))
        for role, choice, changed in self._outputs(place, x, y):
            after = at_least_float32(changed[real] if real is not None else changed).flatten(0, -2)
            sums = self.formula.terms(g, after - before, before)
            key = (role, place.switch.site.name, choice)
            self.sums[key] = self.sums[key] + sums if key in self.sums else sums

    def _real(self, y: torch.Tensor) -> torch.Tensor | None:
        """Return where ``y`` (rows, tokens, outputs) has real tokens; None where all are, or the gradient says it."""
        mask = self.batch.inputs.get("attention_mask")
        if mask is None or y.shape[:2] != mask.shape or bool(mask.all()):
            return None
        return mask.bool()

    def _outputs(self, place: _Place, x: torch.Tensor, y: torch.Tensor) -> Iterator[tuple[str, str, torch.Tensor]]:
        """Yield role, choice and the output there, with the site's switch back at the reference after the last."""
        switch, site = place.switch, place.switch.site
        reference, adapter = switch.state
        held = bool(switch.linear.held_tensors())
        try:
            unrounded = all(bits == FULL_PRECISION for bits in site.kv_widths(reference.kv))
            raw = y if unrounded else place.run(x)
            for role, choice in self._pairs(switch):
                bits = layer_bits_at(reference, role, choice)
                if role == "kv":
                    yield role, choice, quantize_kv(raw, site.kv, bits.kv, switch.linear.kv_quantizers)
                    continue
                chosen = self.model.adapter_at(bits.weight) if role == "weight" and site.has_adapter else adapter
                switch.set(bits, chosen)
                output = place.run(x)
                switch.set(reference, adapter)
                yield role, choice, quantize_kv(output, site.kv, bits.kv, switch.linear.kv_quantizers)
        finally:
            switch.set(reference, adapter)
            if not held:
                # the rounded weights of all choices would be several times the model
                switch.linear.forget()
                if switch.lora is not None:
                    switch.lora.forget()


def _places(model: SwitchableModel, switch: SwitchableSite) -> list[_Place]:
    """Return the modules whose output depends on the rounding of a site, its own first."""
    outer = switch.lora or switch.linear
    found = [_Place(switch, outer, outer.forward)]
    table = model.model.get_input_embeddings()
    if switch.site.is_embedding:
        head = model.model.get_output_embeddings()
        base = getattr(head, "base_layer", head)
        followed = getattr(base, "_followed", ())
        if isinstance(switch.linear, SwitchableEmbedding) and any(each is switch.linear for each in followed):
            assert isinstance(head, nn.Module)
            # a head with a width of its own follows the embedding at full precision alone
            if isinstance(base, TiedHead) or base.bits.weight == FULL_PRECISION:
                found.append(_Place(switch, head, head.forward))
    elif switch.site.is_head and model.settings.head_mode is HeadMode.TIED_BOTH:

        def look_up(ids: torch.Tensor) -> torch.Tensor:
            weight = switch.linear.rounded_weight(switch.linear.bits.weight_width)
            return embedding(ids, weight, getattr(table, "padding_idx", None))

        found.append(_Place(switch, table, look_up))
    return found


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter ask for a gradient within the block."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
