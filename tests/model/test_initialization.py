import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from torch import nn
from transformers import AutoModelForCausalLM

import qalof
from qalof.errors import BadInputError
from qalof.model.adapters import SHARED, AdapterSpec
from qalof.model.initialization import decompose
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build

TAKING = ["pissa", "pissa_niter_8", "olora"]


@pytest.fixture(params=["gpt2", "llama"])
def base(request, families):
    return families(request.param).base


def specs_of(init, rank=4, **more):
    return {"4": AdapterSpec(rank, 8, init=init, **more), "8": AdapterSpec(rank, 8, init=init, **more)}


def site(model, name=""):
    path = "transformer.h.0.mlp.c_fc" if model.model.config.model_type == "gpt2" else "model.layers.0.mlp.up_proj"
    return model.model.get_submodule(path + name)


@torch.no_grad()
def logits(model, tokens):
    return model(tokens).logits


@pytest.mark.parametrize("init", ["kaiming", "gaussian"])
def test_a_drawn_init_starts_as_the_exact_identity(base, init, tokens):
    model, plain = build(base, specs_of(init)), build(base)
    for bits in (32, 8, 4):
        model.set_bitmap(bits)
        plain.set_bitmap(bits)
        assert torch.equal(logits(model, tokens), logits(plain, tokens))
    a, b, _ = site(model).factors("4")
    assert not b.any()
    # U(-1/sqrt(in), 1/sqrt(in)), whose deviation is 1/sqrt(3 in); N(0, 1/rank)
    deviation = (3 * a.shape[1]) ** -0.5 if init == "kaiming" else 1 / 4
    assert float(a.detach().std()) == pytest.approx(deviation, rel=0.2)


def test_the_default_init_is_kaiming_and_depends_on_the_seed_alone(base):
    first, again, other = (build(base, {"4": AdapterSpec(4, 8)}, seed=seed) for seed in (5, 5, 6))
    explicit = build(base, specs_of("kaiming"), seed=5)
    assert torch.equal(site(first).factors("4")[0], site(again).factors("4")[0])
    assert torch.equal(site(first).factors("4")[0], site(explicit).factors("4")[0])
    assert not torch.equal(site(first).factors("4")[0], site(other).factors("4")[0])


def test_orthogonal_starts_with_two_factors_whose_product_is_zero(base):
    a, b, _ = site(build(base, specs_of("orthogonal"))).factors("4")
    assert a.abs().max() > 0.01
    assert b.abs().max() > 0.01
    assert (b @ a).abs().max() < 1e-6


def test_loftq_makes_up_for_the_rounding_of_its_own_width(base, tokens):
    model, plain = build(base, specs_of("loftq")), build(base, specs_of("kaiming"))
    reference = logits(build(base), tokens)
    assert torch.equal(site(model).base_layer.weight, site(plain).base_layer.weight)
    for bits in (4, 8):
        layer = site(model)
        a, b, s = layer.factors(str(bits))
        weight = layer.base_layer.weight
        error = weight - layer.base_layer.quantize_weight(weight, bits)
        singular = torch.linalg.svdvals(error)
        # Eckart-Young: what is left is the tail of the spectrum
        left = float((error - s * b @ a).detach().norm())
        assert left == pytest.approx(float(singular[4:].norm()), rel=1e-4)
        errors = []
        for each in (model, plain):
            each.set_bitmap(f"w{bits}")
            errors.append(float((logits(each, tokens) - reference).square().mean()))
        assert errors[0] < errors[1]


def test_loftq_at_full_precision_has_nothing_to_make_up_for_and_still_trains(base):
    model = build(base, {"32": AdapterSpec(4, 8, init="loftq")})
    a, b, _ = site(model).factors("32")
    assert a.any()
    assert not b.any()


@pytest.mark.parametrize("init", TAKING)
@pytest.mark.parametrize("rslora", [False, True])
def test_an_init_taken_out_of_the_weight_leaves_the_function_at_full_precision(base, init, rslora, tokens):
    model = build(base, specs_of(init, rslora=rslora))
    reference = logits(build(base), tokens)
    for name in ("4", "8"):
        model.set_bitmap(32)
        model.use_adapter(name)
        torch.testing.assert_close(logits(model, tokens), reference, rtol=0, atol=2e-4)
    model.use_adapter(None)
    assert not torch.allclose(logits(model, tokens), reference, atol=1e-2)


def test_pissa_lowers_the_rounding_error(base, tokens):
    reference, errors = logits(build(base), tokens), {}
    for init in ("kaiming", "pissa"):
        model = build(base, {"3": AdapterSpec(8, 8, init=init)})
        model.set_bitmap("w3")
        errors[init] = float((logits(model, tokens) - reference).square().mean())
    assert errors["pissa"] < errors["kaiming"]


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("rslora", [False, True])
def test_the_start_is_that_of_peft(init, rslora):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20))
    weight = model[0].weight.detach().clone()
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["0"], init_lora_weights=init, use_rslora=rslora)
    layer = inject_adapter_in_model(config, model)[0]
    scaling = AdapterSpec(3, 6, rslora=rslora).scaling
    a, b = decompose(weight, 3, scaling, init)
    assert scaling == layer.scaling["default"]
    torch.testing.assert_close(b @ a, layer.lora_B["default"].weight @ layer.lora_A["default"].weight)
    torch.testing.assert_close(weight - scaling * b @ a, layer.base_layer.weight.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("init", [*TAKING, "loftq", "gaussian", "orthogonal"])
@pytest.mark.parametrize("rslora", [False, True])
def test_any_init_is_saved_and_opens_with_plain_peft(base, init, rslora, tokens, tmp_path):
    model = build(base, specs_of(init, rslora=rslora))
    generator = torch.Generator().manual_seed(2)
    for group in model.trainable_groups().values():
        for parameter in group.values():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    qalof.save(model, tmp_path / "c")
    loaded = qalof.load(tmp_path / "c")
    for bitmap in (32, 8, 4):
        model.set_bitmap(bitmap)
        loaded.set_bitmap(bitmap)
        assert torch.equal(logits(loaded, tokens), logits(model, tokens))
    plain = AutoModelForCausalLM.from_pretrained(base.source)
    weights = copy.deepcopy(plain.state_dict())
    peft = PeftModel.from_pretrained(plain, tmp_path / "c" / "adapters" / "4").eval()
    assert all(torch.equal(weights[name], tensor) for name, tensor in peft.unload().state_dict().items())
    peft = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base.source), tmp_path / "c" / "adapters" / "4"
    ).eval()
    model.set_bitmap(32)
    model.use_adapter("4")
    torch.testing.assert_close(logits(peft, tokens), logits(model, tokens), rtol=0, atol=2e-4)


def test_rslora_scales_by_the_root_of_the_rank():
    assert AdapterSpec(16, 32).scaling == 2
    assert AdapterSpec(16, 32, rslora=True).scaling == 8


@pytest.mark.parametrize(
    ("specs", "settings", "law"),
    [
        ({"4": AdapterSpec(4, 8, init="pissa"), "8": AdapterSpec(2, 4, init="pissa")}, {}, "need the same init, rank"),
        ({"4": AdapterSpec(4, 8, init="pissa"), "8": AdapterSpec(4, 8)}, {}, "need the same init, rank"),
        (specs_of("olora"), {"policy": "none"}, "no width may run without one"),
        (specs_of("olora"), {"head_mode": "tied_view"}, "which an embedding would share"),
        (specs_of("loftq"), {"merge": "merge_then_quantize"}, "merges first"),
        ({SHARED: AdapterSpec(4, 8, init="loftq")}, {}, "is shared by all widths"),
        (specs_of("pissa", rank=40), {}, "rank <= 32"),
    ],
)
def test_inits_that_cannot_work_are_refused(families, specs, settings, law):
    with pytest.raises(BadInputError, match=law):
        build(families("gpt2").base, specs, SwitchSettings(**settings))


@pytest.mark.parametrize(
    ("arguments", "law"),
    [
        ({"rank": 0}, "rank must be a whole number of at least 1: got 0"),
        ({"alpha": 0}, "alpha must be a number above 0: got 0"),
        ({"alpha": float("nan")}, "alpha must be a number above 0: got nan"),
        ({"dropout": 1.0}, "dropout must be a number of at least 0 and below 1"),
        ({"init": "pisa"}, "did you mean 'pissa'"),
        ({"init": "eva"}, "no adapter init 'eva'"),
        ({"init": "pissa_niter_0"}, "no adapter init"),
        ({"init": "orthogonal", "rank": 3}, "even rank: got 3; 4 would do"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_with_the_law(arguments, law):
    with pytest.raises(BadInputError, match=law):
        AdapterSpec(**arguments)
