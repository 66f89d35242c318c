"""Schemes in a whole model: calibration, what a checkpoint keeps, training of steps, recomputation in backward."""

import json

import pytest
import torch

import qalof
from qalof.bitmap import Bitmap
from qalof.checkpoint.manifest import read_manifest
from qalof.checkpoint.model import load_parameters
from qalof.checkpoint.quantizers import STATE_FILE
from qalof.errors import BadInputError
from qalof.model.adapters import AdapterSpec
from qalof.model.calibration import calibrate
from qalof.model.pretrained import BaseModel, HeadKind
from qalof.model.quantizer_state import STEPS
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build
from qalof.quantization.methods.log import Log
from qalof.quantization.methods.lsq import Lsq
from qalof.quantization.methods.symmetric import Symmetric
from qalof.quantization.observers import ObserverSpec
from qalof.quantization.quantizers import CONVENTION
from qalof.quantization.scheme import QuantizationScheme, TensorScheme

SPECS = {"4": AdapterSpec(4, 8), "8": AdapterSpec(2, 4)}
TENSOR = Symmetric(granularity="tensor")
STATIC = QuantizationScheme(
    activation=TensorScheme(TENSOR, observer=ObserverSpec()), kv=TensorScheme(TENSOR, observer=ObserverSpec())
)
BY_HEAD = QuantizationScheme(kv=TensorScheme(Symmetric(granularity="head"), observer=ObserverSpec(kind="ema")))
LEARNED = QuantizationScheme(
    TensorScheme(Lsq()), TensorScheme(Lsq(granularity="tensor", gradient_count="features")), widths=(4, 8)
)


def make(random_model, scheme, head=HeadKind.SPAN, **settings):
    model = build(BaseModel(random_model, head), SPECS, SwitchSettings(quantization=scheme, **settings))
    generator = torch.Generator().manual_seed(1)
    for name in SPECS:
        for parameter in model.trainable_groups()[name].values():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


@pytest.fixture
def ids():
    return torch.randint(0, 100, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(3)
    return [{"input_ids": torch.randint(0, 100, (2, 12), generator=generator)} for _ in range(3)]


@torch.no_grad()
def starts(model, ids):
    return model(ids).start_logits


def test_scheme_reaches_every_site(random_model, ids):
    model = make(random_model, QuantizationScheme(TensorScheme(Log())))
    model.set_bitmap("w4a8")
    for name in model.site_names:
        base = model.model.transformer.get_submodule(name).base_layer
        assert torch.equal(base.rounded_weight(4), Log().fake_quantize(base.weight, 4))
    default = make(random_model, QuantizationScheme())
    default.set_bitmap("w4a8")
    assert not torch.equal(starts(model, ids), starts(default, ids))


@pytest.mark.parametrize(
    "scheme", [QuantizationScheme(TensorScheme(Log())), STATIC, LEARNED], ids=["log", "static", "lsq"]
)
def test_a_checkpoint_keeps_the_scheme_and_its_state(random_model, batches, ids, tmp_path, scheme):
    model = make(random_model, scheme)
    calibrate(model, batches)
    qalof.save(model, tmp_path / "c")
    loaded = qalof.load(tmp_path / "c").eval()
    assert loaded.settings == model.settings
    for bitmap in (8, 4, "w4a8kv4"):
        model.set_bitmap(bitmap)
        loaded.set_bitmap(bitmap)
        assert torch.equal(starts(loaded, ids), starts(model, ids))
    manifest = read_manifest(tmp_path / "c")
    assert manifest["convention"] == scheme.convention != CONVENTION
    assert (STATE_FILE in manifest["files"]) == (scheme in (STATIC, LEARNED))


def test_a_scheme_that_is_not_the_stated_convention_is_refused(random_model, tmp_path):
    qalof.save(make(random_model, QuantizationScheme(TensorScheme(Log()))), tmp_path / "c")
    path = tmp_path / "c" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["settings"]["quantization"]["weight"]["quantizer"] = Symmetric().to_json()
    path.write_text(json.dumps(manifest))
    with pytest.raises(BadInputError, match="must use the range convention symmetric-minmax-narrow"):
        qalof.load(tmp_path / "c")


# --- calibration ---


def test_calibration_observes_every_site_at_every_width_and_freezes(random_model, batches, ids):
    model = make(random_model, STATIC)
    model.set_bitmap("striped84")
    with pytest.raises(BadInputError, match=r"h.0.attn.c_attn activation has none at 8 bits.*calibrate"):
        model(ids)
    assert calibrate(model, batches) == 3
    assert model.bitmap == Bitmap.parse("striped84", model.site_names)
    state = {name: value.clone() for name, value in model.named_buffers() if ".ranges." in name}
    for name in model.site_names:
        for bits in (4, 8):
            assert any(f"{name}.base_layer.input_quantizer.ranges.high_{bits}" in key for key in state)
    for bitmap in (4, 8, "w4a8kv4"):
        model.set_bitmap(bitmap)
        starts(model, ids)
    assert all(torch.equal(value, state[name]) for name, value in model.named_buffers() if ".ranges." in name)
    model.set_bitmap(5)
    with pytest.raises(BadInputError, match="has none at 5 bits"):
        model(ids)


def test_static_ranges_make_logits_independent_of_the_batch(random_model, batches, ids):
    model = make(random_model, STATIC).double()
    calibrate(model, batches)
    model.set_bitmap(8)
    torch.testing.assert_close(starts(model, ids)[:1], starts(model, ids[:1]), rtol=0, atol=1e-12)


def test_calibrating_twice_forgets_the_first_unless_told_to_go_on(random_model, batches):
    model = make(random_model, STATIC)

    def seen():
        return {name: int(value) for name, value in model.named_buffers() if name.endswith("seen_4")}

    calibrate(model, batches)
    first = seen()
    calibrate(model, batches[:1])
    assert seen() == {name: count // 3 for name, count in first.items()}
    calibrate(model, batches, reset=False)
    assert seen() == {name: count // 3 * 4 for name, count in first.items()}


@pytest.mark.parametrize("recomputed", [False, True])
def test_calibration_counts_each_batch_once_and_records_no_graph_that_could_run_it_again(
    random_model, batches, recomputed
):
    model = make(random_model, STATIC).train()
    if recomputed:
        model.recompute_activations()
    outputs = []
    model.model.register_forward_hook(lambda module, inputs, output: outputs.append(output.start_logits))
    calibrate(model, batches)
    seen = {int(value) for name, value in model.named_buffers() if name.endswith("input_quantizer.ranges.seen_4")}
    # three batches of 2 x 12 tokens, of 32 features or, before the second projection of the feed-forward layer, of 128
    assert seen == {3 * 2 * 12 * 32, 3 * 2 * 12 * 128}
    assert outputs
    assert not any(output.requires_grad for output in outputs)
    assert model.training


def test_empty_and_non_finite_calibration_is_refused_and_leaves_the_model_as_it_was(random_model, batches):
    model = make(random_model, STATIC)
    model.set_bitmap("w4a8")
    before = model.bitmap
    with pytest.raises(BadInputError, match="at least one batch: got none"):
        calibrate(model, [])
    model.model.transformer.wte.weight.data[5] = float("inf")
    with pytest.raises(BadInputError, match=r"must be finite: h.0.attn.c_attn activation"):
        calibrate(model, [{"input_ids": torch.tensor([[5, 6]])}])
    assert model.bitmap == before
    assert not any(module.calibrating for module in model.modules() if hasattr(module, "calibrating"))


@pytest.mark.parametrize(("scheme", "granularity"), [(STATIC, "token"), (BY_HEAD, "head")], ids=["tensor", "head"])
def test_cached_decoding_equals_the_full_forward_with_a_static_cache(random_model, batches, ids, scheme, granularity):
    model = make(random_model, scheme, HeadKind.CAUSAL_LM, kv_granularity=granularity).double()
    bitmap = "w8a8kv4"
    calibrate(model, batches, [bitmap])
    model.set_bitmap(bitmap)
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0,
                         output_logits=True, return_dict_in_generate=True)  # fmt: skip
    with torch.no_grad():
        full = model(out.sequences).logits[:, ids.shape[1] - 1 : -1]
    torch.testing.assert_close(torch.stack(out.logits, dim=1), full, rtol=0, atol=1e-5, check_dtype=False)


def test_a_head_has_a_range_of_its_own(random_model, batches):
    model = make(random_model, BY_HEAD, kv_granularity="head")
    calibrate(model, batches, ["w32a32kv4"])
    ranges = [value for name, value in model.named_buffers() if name.endswith("ranges.high_4")]
    assert len(ranges) == 4  # keys and values of two blocks
    assert all(value.shape == (2,) and value[0] != value[1] for value in ranges)
    with pytest.raises(BadInputError, match="needs kv_granularity head"):
        SwitchSettings(quantization=BY_HEAD)


# --- learned steps ---


def test_steps_are_a_trainable_group_of_their_own_and_train_without_decay(random_model, batches, ids):
    model = make(random_model, LEARNED)
    calibrate(model, batches)
    steps = model.trainable_groups()[STEPS]
    assert len(steps) == len(model.sites) * 2 * 2
    assert all(p.requires_grad for p in steps.values())
    model.train()
    model.set_bitmap(4)
    model(ids).start_logits.square().sum().backward()
    for name, parameter in steps.items():
        assert (parameter.grad is not None) == name.endswith(".4"), name
    assert STEPS not in make(random_model, QuantizationScheme()).trainable_groups()


def test_merged_branches_round_with_the_learned_steps_of_the_weight(random_model, batches, ids):
    model = make(random_model, LEARNED, merge="merge_then_quantize")
    calibrate(model, batches)
    model.set_bitmap(4)
    assert torch.isfinite(starts(model, ids)).all()
    with pytest.raises(BadInputError, match="has none for a branch alone"):
        make(random_model, LEARNED, merge="quantize_factors")


def test_state_of_another_scheme_is_refused_before_anything_changes(random_model, batches, tmp_path):
    model = make(random_model, LEARNED)
    calibrate(model, batches)
    qalof.save(model, tmp_path / "c")
    other = make(random_model, STATIC)
    with pytest.raises(BadInputError, match="other settings"):
        load_parameters(other, tmp_path / "c")


# --- recomputation ---


@pytest.mark.parametrize("how", ["own", "transformers", "reentrant"])
def test_backward_recomputes_at_the_bits_of_its_own_forward(random_model, ids, how):
    def gradients(checkpointing):
        model = make(random_model, QuantizationScheme()).train()
        if checkpointing == "own":
            model.recompute_activations()
        elif checkpointing:
            model.model.gradient_checkpointing_enable({"use_reentrant": checkpointing == "reentrant"})
        if checkpointing == "reentrant":  # which needs an input with a gradient
            model.model.enable_input_require_grads()
        losses = []
        for bitmap in ("w8a4", "w4a8kv4", 2):
            model.set_bitmap(bitmap)
            losses.append(model(ids).start_logits.square().sum())
        model.set_bitmap(32)
        sum(losses).backward()
        assert model.bitmap == Bitmap.uniform(model.site_names, 32)
        groups = model.trainable_groups()
        return {(g, n): p.grad for g, group in groups.items() for n, p in group.items() if p.grad is not None}

    plain, again = gradients(None), gradients(how)
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-6)


def test_recomputation_really_runs_the_blocks_twice(random_model, ids):
    model = make(random_model, QuantizationScheme()).train()
    model.recompute_activations()
    model.set_bitmap(4)
    seen = []
    site = model.model.transformer.h[0].mlp.c_fc.base_layer
    site.register_forward_pre_hook(lambda module, inputs: seen.append(module.bits.weight))
    loss = model(ids).start_logits.sum()
    model.set_bitmap(8)
    loss.backward()
    assert seen == [4, 4]
    assert site.bits.weight == 8
