import pytest
import torch

import qalof
from qalof.errors import BadInputError
from qalof.model.adapters import AdapterSpec
from qalof.model.layers.lora_linear import MergeOrder
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.quantization.granularity import Granularity
from qalof.quantization.quantizers import fake_quantize

ORDERS = list(MergeOrder)
SPECS = {"4": AdapterSpec(4, 8), "8": AdapterSpec(2, 4)}


@pytest.fixture
def base(families):
    return families("gpt2").base


def made(base, merge, specs=SPECS, **more):
    return build(base, specs, SwitchSettings(merge=merge, **more), seed=3)


@torch.no_grad()
def logits(model, tokens):
    return model(tokens).logits


def channel(weight, bits=4):
    return fake_quantize(weight, bits, Granularity.CHANNEL)


@pytest.mark.parametrize("family_name", ["gpt2", "llama"])
@pytest.mark.parametrize("lora_input", ["raw", "quantized"])
def test_with_b_zero_all_orders_coincide_bit_for_bit(families, family_name, lora_input, tokens):
    models = [made(families(family_name).base, merge, lora_input=lora_input) for merge in ORDERS]
    for bitmap in (4, "w4", "striped84", 32):
        outputs = []
        for model in models:
            model.set_bitmap(bitmap)
            outputs.append(logits(model, tokens))
        assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_merging_first_at_full_precision_is_the_side_branch(base, stirred, tokens):
    branch, merged = (stirred(made(base, merge)) for merge in ("branch", "merge_then_quantize"))
    for model in (branch, merged):
        model.set_bitmap(32)
        model.use_adapter("4")
    torch.testing.assert_close(logits(merged, tokens), logits(branch, tokens), rtol=0, atol=2e-5)


def test_the_orders_differ_once_b_is_not_zero(base, stirred, tokens):
    outputs = []
    for merge in ORDERS:
        model = stirred(made(base, merge), size=0.3)
        model.set_bitmap(4)
        outputs.append(logits(model, tokens))
    pairs = [(a, b) for i, a in enumerate(outputs) for b in outputs[:i]]
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in pairs)


@pytest.mark.parametrize("merge", ORDERS)
def test_each_order_computes_its_formula(base, merge, stirred):
    model = stirred(made(base, merge))
    model.set_bitmap("w4a8")
    layer = model.model.transformer.h[0].mlp.c_fc
    weight, bias = layer.base_layer.weight, layer.base_layer.bias
    a, b, scale = layer.lora_A["4"].weight, layer.lora_B["4"].weight, 8 / 4
    x = torch.randn(2, 3, weight.shape[1], generator=torch.Generator().manual_seed(0))
    rounded = fake_quantize(x, 8, Granularity.TOKEN)
    expected = {
        MergeOrder.BRANCH: rounded @ channel(weight).T + scale * x @ a.T @ b.T,
        MergeOrder.MERGE_THEN_QUANTIZE: rounded @ channel(weight + scale * b @ a).T,
        MergeOrder.QUANTIZE_PRODUCT: rounded @ (channel(weight) + channel(scale * b @ a)).T,
        MergeOrder.QUANTIZE_FACTORS: rounded @ channel(weight).T + scale * x @ channel(a).T @ channel(b).T,
    }[merge]
    torch.testing.assert_close(layer(x), expected + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("merge", ["branch", "quantize_factors"])
def test_the_branch_may_see_the_rounded_input(base, merge, stirred):
    model = stirred(made(base, merge, lora_input="quantized"))
    model.set_bitmap("w32a4kv32")
    model.use_adapter("4")
    layer = model.model.transformer.h[0].mlp.c_fc
    x = torch.randn(2, 3, layer.in_features)
    torch.testing.assert_close(layer(x), layer(fake_quantize(x, 4, Granularity.TOKEN)))


@pytest.mark.parametrize("merge", ORDERS)
def test_gradients_reach_both_factors_and_only_of_the_active_adapter(base, merge, stirred, tokens):
    model = stirred(made(base, merge))
    model.set_bitmap(4)
    model(tokens, labels=tokens).loss.backward()
    groups = model.trainable_groups()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in groups["4"].values())
    assert all(p.grad is None for p in groups["8"].values())


@pytest.mark.parametrize("merge", ORDERS)
def test_the_gradient_is_straight_through(base, merge, stirred):
    """Rounding counts as the identity: d sum(y) / dB is what it is without rounding, at the rounded values."""
    model = stirred(made(base, merge))
    model.set_bitmap("w4")
    layer = model.model.transformer.h[0].mlp.c_fc
    x = torch.randn(5, layer.in_features)
    layer(x).sum().backward()
    a, scale = layer.lora_A["4"].weight.detach(), 8 / 4
    seen = channel(a) if merge is MergeOrder.QUANTIZE_FACTORS else a
    expected = (scale * (x @ seen.T).sum(0)).expand(layer.out_features, -1)
    torch.testing.assert_close(layer.lora_B["4"].weight.grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("merge", ["merge_then_quantize", "quantize_product"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_kept_merged_weight_follows_training(base, merge, fused, stirred, tokens):
    model = stirred(made(base, merge)).eval()
    model.set_bitmap(4)
    logits(model, tokens)
    parameters = list(model.trainable_groups()["4"].values())
    optimizer = torch.optim.AdamW(parameters, lr=0.1, fused=fused)
    model.train()
    model(tokens, labels=tokens).loss.backward()
    optimizer.step()
    model.eval()
    after = logits(model, tokens)
    for switch in model.switches:
        switch.lora.forget()
    assert torch.equal(logits(model, tokens), after)


@pytest.mark.parametrize("merge", ["merge_then_quantize", "quantize_product"])
def test_a_merged_weight_is_computed_once_per_width_and_again_after_a_write(base, merge, stirred, tokens, monkeypatch):
    model = stirred(made(base, merge)).eval()
    layer = model.switches[0].lora
    computed = []
    product = layer.product
    monkeypatch.setattr(layer, "product", lambda name: computed.append(name) or product(name))
    for bits in (4, 8, 4, 8):
        model.set_bitmap(bits)
        logits(model, tokens)
        with torch.inference_mode():
            model(tokens)
    assert computed == ["4", "8"]
    with torch.no_grad():
        layer.lora_A["8"].weight.mul_(2)
    logits(model, tokens)
    model.set_bitmap(4)
    logits(model, tokens)
    assert computed == ["4", "8", "8"]


@pytest.mark.parametrize("merge", ORDERS)
def test_a_checkpoint_keeps_its_order(base, merge, stirred, tokens, tmp_path):
    model = stirred(made(base, merge))
    qalof.save(model, tmp_path / "c")
    loaded = qalof.load(tmp_path / "c")
    assert loaded.settings.merge is merge
    for bitmap in (4, 8, 32):
        model.set_bitmap(bitmap)
        loaded.set_bitmap(bitmap)
        assert torch.equal(logits(loaded, tokens), logits(model, tokens))


@pytest.mark.parametrize("merge", ["merge_then_quantize", "quantize_product"])
def test_dropout_is_refused_where_the_branch_has_no_input_of_its_own(base, merge):
    with pytest.raises(BadInputError, match="no branch input to drop from: adapter 4 has dropout 0.1"):
        made(base, merge, {"4": AdapterSpec(4, 8, dropout=0.1)})


def test_merging_into_a_head_that_is_the_embedding_is_refused(base):
    with pytest.raises(BadInputError, match="merged into a head only where the embedding does not change"):
        made(base, "merge_then_quantize", head_mode="tied_both")
