"""The gradient at a rounded model: its first-order changes are those of the divergence itself."""

import numpy as np
import pytest
import torch

from qalof.bitmap import Bitmap, LayerBits
from qalof.errors import BadInputError
from qalof.evaluation.kl import divergence, reference_of
from qalof.evaluation.label_rows import LabeledBatch, labeled_windows
from qalof.evaluation.weight_gradient import weight_gradient
from qalof.model.adapters import AdapterSpec
from qalof.model.at_bitmap import layers_of
from qalof.model.layers.lora_linear import MergeOrder
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.settings import SwitchSettings
from qalof.model.sites import site_path
from qalof.model.switchable import build
from qalof.site import EmbeddingMode, HeadMode

SETTINGS = {
    "plain": SwitchSettings(),
    "head": SwitchSettings(head_mode=HeadMode.TIED_VIEW),
    "embedding": SwitchSettings(embedding=EmbeddingMode.SITE),
}
SPECS = {"3": AdapterSpec(2, 4), "4": AdapterSpec(2, 4)}
CHOICES = [LayerBits.parse(text) for text in ("w3", "w4", "w8")]


def make(folder, settings, adapters=None):
    model = build(BaseModel(folder, HeadKind.CAUSAL_LM), adapters or {}, settings)
    for group in model.trainable_groups().values():
        for parameter in group.values():
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return model.double().eval()


def windows():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5, 200, (length,), generator=generator).tolist() for length in (12, 7)]


def moved(model, site, direction, amount, reference, bitmap):
    """The mean divergence at ``bitmap`` with the weight of one site moved by ``amount`` times ``direction``."""
    module = model.model.get_submodule(site_path(model.model, site))
    hook = module.register_forward_hook(lambda _, inputs, output: output + amount * inputs[0] @ direction.T)
    try:
        return divergence(model, bitmap, reference).kl.mean()
    finally:
        hook.remove()


def total(model, site, bits):
    """The weight that a site runs with, its adapter's product included."""
    linear, lora = layers_of(model, site)
    weight = linear.rounded_weight(bits.weight_width)
    name = model.adapter_at(bits.weight) if lora is not None else None
    return weight if name is None else weight + lora.product(name)


@pytest.mark.parametrize("adapters", [{}, SPECS], ids=["bare", "adapters"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_change_is_the_derivative_of_the_divergence_along_it(random_model, name, adapters):
    model = make(random_model, SETTINGS[name], adapters)
    batches = labeled_windows(windows(), 1)
    reference = reference_of(model, batches)
    striped = {site.name: LayerBits.parse(("w3", "w4")[i % 2]) for i, site in enumerate(model.sites)}
    bitmap = Bitmap(striped)
    found = weight_gradient(model, reference, bitmap, {site.name: CHOICES for site in model.sites})
    np.testing.assert_allclose(found.kl, divergence(model, bitmap, reference).kl, rtol=1e-9, atol=1e-12)
    linear = [site for site in model.sites if not site.is_embedding]
    assert set(found.changes) == {site.name for site in linear}
    for site in linear[:: max(1, len(linear) // 4)]:
        if site.is_head:
            continue  # a hook on the head sees the differences of states that the divergence gives it
        for bits in CHOICES:
            direction = (total(model, site, bits) - total(model, site, bitmap[site.name])).detach()
            up, down = (moved(model, site, direction, a, reference, bitmap) for a in (1e-5, -1e-5))
            change = found.changes[site.name][str(bits.weight_width)]
            assert change == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-8)


def test_the_bitmaps_own_choice_changes_nothing_and_the_model_is_left_as_it_was(random_model):
    model = make(random_model, SwitchSettings(), SPECS)
    model.set_bitmap("w8a8")
    model.train()
    reference = reference_of(model, labeled_windows(windows()))
    bitmap = Bitmap.parse("w4a16", [site.name for site in model.sites])
    found = weight_gradient(model, reference, bitmap, {site.name: CHOICES for site in model.sites})
    assert all(changes["4"] == 0 for changes in found.changes.values())
    assert model.training
    assert set(model.bitmap.values()) == {LayerBits.parse("w8a8")}
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("merge", list(MergeOrder))
def test_every_merge_order_gives_every_site_a_gradient(random_model, merge):
    model = make(random_model, SwitchSettings(merge=merge), SPECS)
    reference = reference_of(model, labeled_windows(windows()))
    bitmap = Bitmap.parse("w4", [site.name for site in model.sites])
    found = weight_gradient(model, reference, bitmap, {site.name: CHOICES for site in model.sites})
    assert all(changes["3"] != 0 for changes in found.changes.values())


def test_examples_without_a_label_are_refused(random_model):
    model = make(random_model, SwitchSettings())
    (whole,) = labeled_windows(windows()[:1])
    empty = LabeledBatch(whole.inputs, lambda outputs: (outputs.logits[0, :0], torch.zeros(0, dtype=torch.long)))
    reference = reference_of(model, [empty])
    bitmap = Bitmap.parse("w4", [site.name for site in model.sites])
    with pytest.raises(BadInputError, match="at least one labeled row"):
        weight_gradient(model, reference, bitmap, {})
