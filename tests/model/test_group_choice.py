"""The law of a choice with a group size: a site at ``wBgG`` is what a scheme in groups of G gives at B bits.

It is tested bit for bit, for every quantizer, every form in which a weight is held, every merge order and each kind of
site.
"""

from dataclasses import replace

import pytest
import torch

from qalof.attacks.robustness.random_precision import RandomPrecision
from qalof.bitmap import Bitmap
from qalof.errors import BadInputError
from qalof.layer_bits import GroupedWidth, LayerBits
from qalof.model.layers.lora_linear import MergeOrder
from qalof.model.layers.switchable_linear import SwitchableLinear
from qalof.model.settings import SwitchSettings
from qalof.model.shared_memory import share_frozen
from qalof.model.switchable import build
from qalof.quantization.granularity import Granularity
from qalof.quantization.quantizer import Quantizer
from qalof.quantization.scheme import QuantizationScheme, TensorScheme

METHODS = sorted(set(Quantizer.registry) - {"lsq"})
SIZES = (1, 8, 7, 1000)
HELD = ("values", "codes", "packed", "int8")


def quantizer_of(method, **options):
    return Quantizer.from_json({"method": method} | options)


def width_of(quantizer):
    return quantizer.only_bits or 4


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(weight, **scheme):
    plain = torch.nn.Linear(20, 6)
    with torch.no_grad():
        plain.weight.copy_(normal(6, 20))
        plain.bias.copy_(normal(6, seed=2))
    return SwitchableLinear.of(plain, "h.0.a", QuantizationScheme(TensorScheme(weight), **scheme))


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_a_weight_is_rounded_by_its_quantizer_in_the_groups_of_its_choice(method, held):
    quantizer = quantizer_of(method)
    bits = width_of(quantizer)
    linear, x = layer(quantizer, held=held), normal(2, 3, 20, seed=1)
    for size in SIZES:
        grouped = replace(quantizer, granularity=Granularity.GROUP, group_size=size)
        expected = grouped.fake_quantize(linear.weight, bits)
        assert torch.equal(linear.rounded_weight(GroupedWidth(bits, size)), expected)
        linear.bits = LayerBits(bits, 8, 32, size)
        own = layer(grouped, held=held)
        own.bits = LayerBits(bits, 8)
        assert torch.equal(linear(x), own(x))
        assert str(linear.kernel()) == str(own.kernel())
        assert linear.held_bytes()[GroupedWidth(bits, size)] == own.held_bytes()[bits]
    assert torch.equal(linear.rounded_weight(bits), quantizer.fake_quantize(linear.weight, bits))


@torch.no_grad()
def test_a_by_width_exception_is_the_quantizer_that_is_grouped():
    scheme = TensorScheme(quantizer_of("symmetric"), {3: quantizer_of("asymmetric", scale_dtype="float16")})
    linear = SwitchableLinear.of(torch.nn.Linear(20, 6), "h.0.a", QuantizationScheme(scheme))
    grouped = quantizer_of("asymmetric", scale_dtype="float16", granularity="group", group_size=8)
    assert torch.equal(linear.rounded_weight(GroupedWidth(3, 8)), grouped.fake_quantize(linear.weight, 3))


def test_a_weight_is_rounded_once_for_each_choice_and_switching_copies_nothing(monkeypatch):
    linear, x, calls = layer(quantizer_of("symmetric")), normal(2, 20), []
    rounded = linear.weight_quantizer.forward
    monkeypatch.setattr(linear.weight_quantizer, "forward", lambda w, width: calls.append(width) or rounded(w, width))
    with torch.no_grad():
        for form in ("w4", "w4g8", "w4g4", "w4g8", "w4", "w4g4a8"):
            linear.bits = LayerBits.parse(form)
            linear(x)
    assert calls == [4, GroupedWidth(4, 8), GroupedWidth(4, 4)]
    assert linear.rounded_weight(GroupedWidth(4, 8)).data_ptr() == linear.rounded_weight(GroupedWidth(4, 8)).data_ptr()


@pytest.mark.slow
def test_a_compiled_layer_rounds_in_the_groups_of_its_choice():
    torch._dynamo.reset()
    linear, x = layer(quantizer_of("symmetric")), normal(2, 20)
    compiled = torch.compile(linear, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for form in ("w4a8", "w4g8a8", "w4g4a8", "w4g8a8"):
            linear.bits = LayerBits.parse(form)
            expected = linear(x)
            torch.testing.assert_close(compiled(x), expected, rtol=1e-6, atol=1e-6)


def pair(family, specs, stirred, size, **settings):
    """The same model twice: per channel, and in groups of ``size``."""
    grouped = {"weight": {"quantizer": {"method": "symmetric", "granularity": "group", "group_size": size}}}
    plain = stirred(build(family.base, specs, SwitchSettings(**settings))).eval()
    own = stirred(build(family.base, specs, SwitchSettings(**settings, quantization=grouped))).eval()
    return plain, own


@pytest.mark.parametrize("merge", list(MergeOrder))
@pytest.mark.parametrize("bits", [3, 4])
def test_a_model_computes_and_learns_what_a_model_with_that_granularity_does(
    families, specs, stirred, tokens, merge, bits
):
    plain, own = pair(families("llama"), specs, stirred, 8, merge=merge)
    plain.set_bitmap(f"w{bits}g8a8kv8")
    own.set_bitmap(f"w{bits}a8kv8")
    # adapters are by width: that of 4 bits serves 4 bits in groups, and the policy serves 3
    assert [switch.state[1] for switch in plain.switches] == [switch.state[1] for switch in own.switches]
    with torch.no_grad():
        assert torch.equal(plain(tokens).logits, own(tokens).logits)
    for model in (plain, own):
        model.train()
        model(tokens, labels=tokens).loss.backward()
    name = plain.switches[0].state[1]
    gradients = [{n: p.grad for n, p in model.trainable_groups()[name].items()} for model in (plain, own)]
    assert all(torch.equal(gradients[0][n], gradients[1][n]) for n in gradients[0])
    assert any(bool(gradient.any()) for gradient in gradients[0].values())


@pytest.mark.parametrize(
    "settings",
    [
        {"head_mode": "tied_view"},
        {"head_mode": "tied_both"},
        {"head_mode": "untied"},
        {"embedding": "site"},
        {"embedding": "site", "head_mode": "tied_view"},
        {"norms": "per_width"},
        {"lora_input": "quantized"},
    ],
    ids=str,
)
@torch.no_grad()
def test_heads_and_embeddings_take_group_sizes_too(families, specs, stirred, tokens, settings):
    family = families("qwen2" if "tied" in str(settings) or "embedding" in settings else "llama")
    plain, own = pair(family, specs, stirred, 8, **settings)
    if "embedding" in settings:
        grouped = replace(
            own.settings.quantization,
            embedding=TensorScheme(quantizer_of("symmetric", granularity="group", group_size=8, scale_dtype="float16")),
        )
        own = stirred(build(family.base, specs, replace(own.settings, quantization=grouped))).eval()
    plain.set_bitmap("w4g8a8")
    own.set_bitmap("w4a8")
    assert torch.equal(plain(tokens).logits, own(tokens).logits)


@torch.no_grad()
def test_one_bitmap_mixes_group_sizes_and_each_site_has_its_own(families, specs, stirred, tokens):
    family = families("gpt2")
    model = stirred(build(family.base, specs)).eval()
    forms = ["4g8", "4", "4g16", "8g4", "3g8", "8", "2g2", "32"]
    bitmap = Bitmap(
        {
            site: replace(LayerBits.parse(form), activation=32, kv=32)
            for site, form in zip(model.site_names, forms, strict=True)
        }
    )
    model.set_bitmap(bitmap)
    for switch, bits in zip(model.switches, bitmap.values(), strict=True):
        quantizer = switch.linear.scheme.weight.at(bits.weight)
        if bits.group_size:
            quantizer = replace(quantizer, granularity=Granularity.GROUP, group_size=bits.group_size)
        rounded = switch.linear.rounded_weight(bits.weight_width)
        assert torch.equal(rounded, quantizer.fake_quantize(switch.linear.weight, bits.weight))
    first = model(tokens).logits
    model.set_bitmap(8)
    model.set_bitmap(bitmap)
    assert torch.equal(model(tokens).logits, first)


@torch.no_grad()
def test_a_packed_model_holds_choices_and_runs_no_others(families, specs, stirred, tokens):
    models = [stirred(build(families("llama").base, specs)).eval() for _ in range(2)]
    models[1].pack_for_inference([8, "4g8", GroupedWidth(4, 16)])
    assert [str(width) for width in models[1].packed_widths] == ["4g16", "4g8", "8"]
    for bitmap in ("w4g8a32", "w8", "w4g16"):
        expected, got = [model(tokens).logits for model in models if model.set_bitmap(bitmap)]
        assert torch.equal(expected, got)
    models[1].set_bitmap("w4g8a8")
    assert {kernel.name for kernel in models[1].kernels().values()} == {"int_mm"}
    with pytest.raises(BadInputError, match=r"runs at the widths it holds, \[4g16, 4g8, 8\]: got 4"):
        models[1].set_bitmap("w4a8")
    assert str(models[1].bitmap) == "w4g8a8"


@torch.no_grad()
def test_processes_share_the_weights_of_each_choice_apart(families, specs, stirred, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr("qalof.model.shared_memory.SMALLEST", 1)
    model = stirred(build(families("llama").base, specs)).eval()
    expected = [model(tokens).logits for bitmap in ("4", "4g8", "4g16") if model.set_bitmap(bitmap)]
    share_frozen(model, tmp_path)
    got = [model(tokens).logits for bitmap in ("4", "4g8", "4g16") if model.set_bitmap(bitmap)]
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


@torch.no_grad()
def test_blocks_that_run_again_for_their_gradient_have_the_choice_of_their_forward(families, specs, stirred, tokens):
    gradients = []
    for again in (False, True):
        model = stirred(build(families("llama").base, specs)).train()
        if again:
            model.recompute_activations()
        with torch.enable_grad():
            model.set_bitmap("w4g8a8")
            loss = model(tokens, labels=tokens).loss
            model.set_bitmap("w4g16a8")
            loss.backward()
        gradients.append([p.grad for p in model.trainable_groups()["4"].values()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_request_may_draw_choices_with_group_sizes(families):
    sites = build(families("llama").base).site_names
    defense = RandomPrecision.of(sites, ["4g8", "4g16", 8], granularity="layer")
    drawn = [defense.bitmap(request) for request in range(5)]
    assert {str(bits) for bitmap in drawn for bits in bitmap.values()} == {"4g8", "4g16", "8"}
    assert defense.to_json()["widths"] == ["4g8", "4g16", "8"]


STRICT = {"weight": {"quantizer": {"method": "symmetric", "require_divisible": True}}}
LEARNED = {"weight": {"quantizer": {"method": "lsq"}}, "widths": [4, 8]}


@pytest.mark.parametrize(
    ("quantization", "bitmap", "message"),
    [
        (STRICT, "w4g7", "layers.0.self_attn.q_proj at 4g7 bits: group_size must divide in_features: got 7 for 32"),
        (LEARNED, "w4g8", "q_proj at 4g8 bits: lsq learns its steps for the granularity of its scheme alone"),
        ({"weight": {"quantizer": "nf4"}}, "w3g8", "nf4 has 4 bits only"),
    ],
)
def test_a_choice_that_a_quantizer_does_not_have_is_refused_and_the_model_stays_as_it_was(
    families, tokens, quantization, bitmap, message
):
    model = build(families("llama").base, settings=SwitchSettings(quantization=quantization))
    before = model.bitmap
    with pytest.raises(BadInputError, match=message), model.at(bitmap), torch.no_grad():
        model(tokens)
    assert model.bitmap == before
    if quantization is STRICT:
        model.set_bitmap("w4g8")


def test_steps_that_are_learned_for_these_very_groups_serve_them(families, tokens):
    grouped = {"method": "lsq", "granularity": "group", "group_size": 8}
    settings = SwitchSettings(quantization={"weight": {"quantizer": grouped}, "widths": [4]})
    model = build(families("llama").base, settings=settings).eval()
    with torch.no_grad():
        same = [model(tokens).logits for bitmap in ("w4", "w4g8") if model.set_bitmap(bitmap)]
    assert torch.equal(*same)
