import copy
import json
import time

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForQuestionAnswering

import qalof
from qalof.bitmap import Bitmap, LayerBits
from qalof.errors import BadInputError
from qalof.model.adapters import SHARED, AdapterPolicy, AdapterSpec, adapter_for
from qalof.model.pretrained import BaseModel, HeadKind, load_pretrained
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.quantization.granularity import Granularity
from qalof.quantization.quantizers import fake_quantize

SPECS = {"4": AdapterSpec(4, 8), "8": AdapterSpec(2, 4)}


@pytest.fixture
def span_model(random_model):
    return build(BaseModel(random_model, HeadKind.SPAN), SPECS)


@pytest.fixture
def trained(span_model):
    """With adapters that do something."""
    generator = torch.Generator().manual_seed(1)
    for group in span_model.trainable_groups().values():
        for parameter in group.values():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return span_model


@pytest.fixture
def ids():
    return torch.randint(0, 100, (2, 12), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def starts(model, ids):
    return model(ids).start_logits


def test_four_sites_a_block_by_stable_name(span_model):
    leaves = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert span_model.site_names == tuple(f"h.{block}.{leaf}" for block in range(2) for leaf in leaves)


def test_fresh_model_at_full_precision_is_the_pretrained_model(span_model, random_model, ids):
    plain = load_pretrained(random_model, HeadKind.SPAN)
    torch.testing.assert_close(starts(span_model, ids), starts(plain, ids), rtol=0, atol=1e-6)


def test_fewer_bits_move_the_output_further(span_model, ids):
    reference = starts(span_model, ids)
    errors = []
    for bits in (8, 4, 2):
        span_model.set_bitmap(bits)
        errors.append(float((starts(span_model, ids) - reference).abs().mean()))
    assert 0 < errors[0] < errors[1] < errors[2]


def test_a_site_computes_rounded_weight_times_rounded_input_plus_adapter(trained):
    trained.set_bitmap("w4a8kv32")
    outer = trained.model.transformer.h[0].mlp.c_fc
    x = torch.randn(2, 3, outer.base_layer.in_features)
    weight = fake_quantize(outer.base_layer.weight, 4, Granularity.CHANNEL)
    rounded = fake_quantize(x, 8, Granularity.TOKEN)
    branch = x @ outer.lora_A["4"].weight.T @ outer.lora_B["4"].weight.T * (8 / 4)
    torch.testing.assert_close(outer(x), rounded @ weight.T + outer.base_layer.bias + branch)


def test_switching_back_gives_the_same_bits(trained, ids):
    trained.set_bitmap(4)
    before = starts(trained, ids)
    trained.set_bitmap("striped84")
    assert not torch.equal(starts(trained, ids), before)
    trained.set_bitmap(4)
    assert torch.equal(starts(trained, ids), before)


def test_switching_copies_no_weight_and_leaves_requires_grad_alone(trained, ids):
    def state():
        return [(name, p.data_ptr(), p._version, p.requires_grad) for name, p in trained.named_parameters()]

    before = state()
    for bits in (8, 4, 2, 32):
        trained.set_bitmap(bits)
        starts(trained, ids)
    assert state() == before


def test_frozen_weight_is_rounded_once_a_width_and_again_after_it_changes(trained, ids):
    site = trained.model.transformer.h[0].mlp.c_fc.base_layer
    first = site.rounded_weight(4)
    assert site.rounded_weight(4) is first
    with torch.no_grad():
        site.weight.mul_(2)
    assert torch.equal(site.rounded_weight(4), 2 * first)


def test_weight_in_training_is_rounded_with_a_gradient(trained):
    site = trained.model.transformer.h[0].mlp.c_fc.base_layer
    site.weight.requires_grad_(True)
    site.rounded_weight(4).sum().backward()
    assert torch.equal(site.weight.grad, torch.ones_like(site.weight))


def test_rounding_under_inference_mode_does_not_spoil_training(span_model, ids):
    span_model.set_bitmap(4)
    with torch.inference_mode():
        span_model(ids)
    span_model(ids).start_logits.sum().backward()
    assert any(p.grad is not None for p in span_model.trainable_groups()["4"].values())


def test_only_the_active_adapter_gets_gradients(trained, ids):
    trained.set_bitmap(4)
    trained(ids).start_logits.sum().backward()
    groups = trained.trainable_groups()
    assert all(p.grad is not None for p in groups["4"].values())
    assert all(p.grad is None for p in groups["8"].values())


def test_saved_checkpoint_loads_to_the_same_bits(trained, ids, tmp_path):
    qalof.save(trained, tmp_path / "checkpoint", {"note": 1})
    loaded = qalof.load(tmp_path / "checkpoint")
    for spec in (32, 8, 4, "striped84"):
        trained.set_bitmap(spec)
        loaded.set_bitmap(spec)
        assert torch.equal(starts(loaded, ids), starts(trained, ids))


def test_saved_adapter_opens_with_plain_peft(trained, random_model, ids, tmp_path):
    qalof.save(trained, tmp_path / "checkpoint")
    plain = AutoModelForQuestionAnswering.from_pretrained(random_model)
    peft = PeftModel.from_pretrained(plain, tmp_path / "checkpoint" / "adapters" / "4").eval()
    trained.set_bitmap(32)
    trained.use_adapter("4")
    torch.testing.assert_close(starts(trained, ids), starts(peft, ids), rtol=0, atol=1e-6)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_cached_decoding_equals_the_full_forward_with_a_rounded_cache(random_model, ids, implementation):
    # in float64, where sums over other shapes push no value over a border between two levels
    model = build(BaseModel(random_model, HeadKind.CAUSAL_LM), SPECS).double()
    model.model.set_attn_implementation(implementation)
    model.set_bitmap("w8a8kv2")
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=10, do_sample=False, pad_token_id=0,
                         output_logits=True, return_dict_in_generate=True)  # fmt: skip
    with torch.no_grad():
        full = model(out.sequences).logits[:, ids.shape[1] - 1 : -1]
    torch.testing.assert_close(torch.stack(out.logits, dim=1), full, rtol=0, atol=1e-5, check_dtype=False)
    model.set_bitmap("w8a8kv32")
    with torch.no_grad():
        assert not torch.allclose(model(out.sequences).logits[:, ids.shape[1] - 1 : -1], full, atol=1e-4)


def test_padding_on_the_right_changes_no_logit(trained, ids):
    trained = copy.deepcopy(trained).double()
    trained.set_bitmap("w4a4kv4")
    padded = torch.cat([ids, torch.full((2, 5), 7)], dim=1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros(2, 5, dtype=torch.int64)], dim=1)
    with torch.no_grad():
        got = trained(padded, attention_mask=mask).start_logits[:, : ids.shape[1]]
    torch.testing.assert_close(got, starts(trained, ids), rtol=0, atol=1e-12)


def test_switching_all_sites_is_fast(trained):
    maps = [Bitmap.uniform(trained.site_names, bits) for bits in (4, 8)]
    start = time.process_time()  # of the processor: what else the machine does is no part of it
    for i in range(200):
        trained.set_bitmap(maps[i % 2])
    # 8 sites; generous, for a slow machine
    assert (time.process_time() - start) / 200 < 2e-3


@pytest.mark.parametrize(
    ("bits", "names", "policy", "chosen"),
    [
        (4, ["4", "8"], "exact", "4"),
        (3, ["4", "8"], "nearest_higher", "4"),
        (32, ["4", "8"], "nearest_higher", "8"),
        (5, ["4", "8"], "nearest", "4"),
        (6, ["4", "8"], "nearest", "8"),
        (3, ["4", "8"], "none", None),
        (3, [SHARED], "exact", SHARED),
        (3, [], "exact", None),
    ],
)
def test_adapter_policy(bits, names, policy, chosen):
    assert adapter_for(bits, names, AdapterPolicy(policy)) == chosen


def test_exact_policy_refuses_a_width_without_adapter_before_anything_changes(random_model):
    model = build(BaseModel(random_model, HeadKind.SPAN), SPECS, SwitchSettings(policy=AdapterPolicy.EXACT))
    model.set_bitmap(8)
    with pytest.raises(BadInputError, match="no adapter|needs an adapter for 3 bits"):
        model.set_bitmap(3)
    assert model.bitmap == Bitmap.uniform(model.site_names, 8)
    assert model.model.transformer.h[0].mlp.c_fc.base_layer.bits == LayerBits.of(8)


def test_missing_checkpoint_is_one_clear_error(tmp_path):
    with pytest.raises(BadInputError, match="does not exist"):
        qalof.load(tmp_path / "nothing")


def test_flipped_byte_is_noticed(trained, tmp_path):
    qalof.save(trained, tmp_path / "c")
    path = tmp_path / "c" / "adapters" / "4" / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BadInputError, match="damaged: adapters/4/adapter_model.safetensors does not match"):
        qalof.load(tmp_path / "c")


@pytest.mark.parametrize(
    ("key", "value", "law"),
    [("format_version", 5, "format version 1 or 2 or 3 or 4: got 5"), ("convention", "full", "convention")],
)
def test_newer_version_and_other_convention_are_refused(trained, tmp_path, key, value, law):
    qalof.save(trained, tmp_path / "c")
    manifest = tmp_path / "c" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {key: value}))
    with pytest.raises(BadInputError, match=law):
        qalof.load(tmp_path / "c")


def test_another_base_is_refused(trained, random_model, tmp_path):
    qalof.save(trained, tmp_path / "c")
    weights = load_file(f"{random_model}/model.safetensors")
    other = AutoModelForCausalLM.from_pretrained(random_model)
    weights["transformer.wte.weight"] = other.transformer.wte.weight.detach() + 1
    before = (tmp_path / "keep.safetensors", random_model + "/model.safetensors")
    save_file(load_file(before[1]), before[0], metadata={"format": "pt"})
    save_file(weights, before[1], metadata={"format": "pt"})
    try:
        with pytest.raises(BadInputError, match="trained on other weights"):
            qalof.load(tmp_path / "c")
    finally:
        save_file(load_file(before[0]), before[1], metadata={"format": "pt"})


def test_weights_that_are_not_finite_are_refused(random_model):
    base = BaseModel(random_model, HeadKind.SPAN)
    broken = base.load()
    broken.transformer.h[1].mlp.c_fc.weight.data[0, 0] = float("nan")
    with pytest.raises(BadInputError, match=r"finite.*h.1.mlp.c_fc"):
        build(base, SPECS, pretrained=broken)


def test_a_model_that_is_nowhere_is_one_clear_error():
    with pytest.raises(BadInputError, match="must exist.*/nowhere/at/all"):
        load_pretrained("/nowhere/at/all", HeadKind.SPAN)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("inside", [8, None])
def test_at_restores_bitmap_and_mode_also_after_an_error(span_model, training, inside):
    model = span_model.train(training)
    before = model.set_bitmap(4)
    with model.at(inside, eval=True) as bitmap:
        assert not model.training
        assert model.bitmap == bitmap
        model.set_bitmap(32)
    assert (model.bitmap, model.training) == (before, training)
    with pytest.raises(KeyError), model.at(inside, eval=True):
        raise KeyError
    assert (model.bitmap, model.training) == (before, training)
    with pytest.raises(BadInputError), model.at(1, eval=True):
        raise AssertionError("the block of a bitmap that is refused is not run")
    assert (model.bitmap, model.training) == (before, training)
