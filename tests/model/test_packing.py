"""A model whose weights are packed integers alone: same outputs, fewer bytes, switched as before."""

import pytest
import torch

from qalof.errors import BadInputError
from qalof.export.packed import save_packed
from qalof.model.packing import predicted_bytes
from qalof.model.settings import SwitchSettings
from qalof.model.switchable import build

GROUP = {"weight": {"quantizer": {"method": "symmetric", "granularity": "group", "group_size": 16}}}
ASYMMETRIC = {"weight": {"quantizer": {"method": "asymmetric", "granularity": "channel"}}}


def pair(family, specs, **settings):
    """The same model twice, its branches drawn, the second one packed at 4 and 8 bits."""
    made = []
    for _ in range(2):
        model = build(family.base, specs, SwitchSettings(**settings))
        generator = torch.Generator().manual_seed(1)
        for group in model.trainable_groups().values():
            for parameter in group.values():
                parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
        made.append(model.eval())
    made[1].pack_for_inference([8, 4])
    return made


@torch.no_grad()
def both(models, bitmap, tokens):
    for model in models:
        model.set_bitmap(bitmap)
    return [model(tokens).logits for model in models]


def close(models, bitmap, tokens):
    """Up to the rounding of sums, and to the few codes of later inputs that it may move by one step."""
    expected, got = both(models, bitmap, tokens)
    error = (expected - got).abs()
    assert error.median() < 1e-5 * expected.abs().max()
    assert error.max() < 0.05 * expected.abs().max()


def test_every_family_computes_what_it_computed(family, specs, tokens):
    models = pair(family, specs)
    for bitmap in ("w8a8", "w4a8", *(("8,4",) if family.name != "opt" else ())):  # OPT has sites outside its blocks
        close(models, bitmap, tokens)
        assert {str(kernel) for kernel in models[1].kernels().values()} == {"int_mm"}


@pytest.mark.parametrize("bitmap", ["w8a16", "w4a32", "w8a12"])
def test_what_is_decoded_is_the_same_bit_for_bit(families, specs, tokens, bitmap):
    models = pair(families("gpt2"), specs)
    assert torch.equal(*both(models, bitmap, tokens))
    assert {kernel.name for kernel in models[1].kernels().values()} == {"decode"}


@pytest.mark.parametrize(
    "settings",
    [
        {"quantization": GROUP},
        {"quantization": ASYMMETRIC},
        {"merge": "merge_then_quantize"},
        {"merge": "quantize_factors"},
        {"lora_input": "quantized"},
        {"head_mode": "tied_view"},
        {"head_mode": "untied", "norms": "per_width"},
    ],
    ids=str,
)
def test_settings_hold_when_packed(families, specs, tokens, settings):
    close(pair(families("gpt2"), specs, **settings), "w4a8", tokens)


@pytest.mark.parametrize("quantization", [{}, GROUP, ASYMMETRIC], ids=["channel", "group", "asymmetric"])
def test_bytes_are_those_predicted_and_the_weights_are_gone(families, specs, quantization):
    model, packed = pair(families("gpt2"), specs, quantization=quantization)
    predicted = predicted_bytes(packed.sites, packed.settings.quantization, [4, 8])
    assert sum(packed.held_bytes().values()) == predicted
    dropped = sum(4 * site.weights for site in packed.sites)
    sizes = [sum(p.numel() * p.element_size() for p in m.parameters()) for m in (model, packed)]
    assert sizes[0] - sizes[1] == dropped


def test_switching_copies_no_weight_and_comes_back(families, specs, tokens):
    _, packed = pair(families("gpt2"), specs)
    layers = [switch.linear for switch in packed.switches]
    held = [tensor.data_ptr() for layer in layers for t in layer.held_tensors().values() for tensor in t.values()]
    first = both([packed], 4, tokens)[0]
    assert not torch.equal(both([packed], 8, tokens)[0], first)
    assert torch.equal(both([packed], 4, tokens)[0], first)
    assert held == [
        tensor.data_ptr() for layer in layers for t in layer.held_tensors().values() for tensor in t.values()
    ]


def test_generation_with_a_cache_is_the_full_forward(families, specs, tokens):
    models = pair(families("llama"), specs)
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(tokens)}
    both(models, "w8a8kv8", tokens)
    assert torch.equal(models[0].generate(tokens, **options), models[1].generate(tokens, **options))


def test_a_width_that_is_not_held_is_refused_by_name(families, specs):
    _, packed = pair(families("gpt2"), specs)
    for bitmap in (32, "8,3"):
        before = packed.bitmap
        with pytest.raises(BadInputError, match=r"widths it holds, \[4, 8\]"):
            packed.set_bitmap(bitmap)
        assert packed.bitmap == before


def test_full_precision_can_be_one_of_the_widths(families, specs, tokens):
    model = build(families("gpt2").base, specs).eval()
    expected = both([model], 32, tokens)[0]
    model.pack_for_inference([4, 32])
    assert torch.equal(both([model], 32, tokens)[0], expected)
    assert {str(kernel) for kernel in model.kernels().values()} == {"float"}


@pytest.mark.parametrize(
    ("settings", "widths", "match"),
    [
        ({}, [], "at least one width"),
        ({}, [1], "widths"),
        ({"merge": "quantize_product"}, [4], "quantize_product"),
        ({"head_mode": "tied_both"}, [4], "tied_both"),
        ({"policy": "exact"}, [5], "exact"),
    ],
)
def test_what_cannot_be_packed_is_refused_and_stays_whole(families, specs, tokens, settings, widths, match):
    model = build(families("gpt2").base, specs, SwitchSettings(**settings)).eval()
    expected = both([model], 8, tokens)[0]
    with pytest.raises(BadInputError, match=match):
        model.pack_for_inference(widths)
    assert torch.equal(both([model], 8, tokens)[0], expected)


def test_a_packed_model_is_not_packed_again_nor_given_another_adapter(families, specs, tmp_path):
    _, packed = pair(families("gpt2"), specs, merge="merge_then_quantize")
    with pytest.raises(BadInputError, match="packed once"):
        packed.pack_for_inference([4])
    with pytest.raises(BadInputError, match="set a bitmap instead"):
        packed.use_adapter("8")
    with pytest.raises(BadInputError, match="export that"):
        save_packed(packed, 4, tmp_path / "p")


def test_gradients_reach_the_inputs_of_a_packed_model(families, specs, tokens):
    models = pair(families("gpt2"), specs)
    found = []
    for model in models:
        model.set_bitmap("w4a8")
        embedded = model.model.get_input_embeddings()(tokens).detach().requires_grad_()
        model(inputs_embeds=embedded).logits.square().mean().backward()
        found.append(embedded.grad)
    assert torch.equal(*found)
